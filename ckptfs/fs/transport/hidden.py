"""Files that are open but have no name: libfuse 2 renames them to `.fuse_hidden...` in their directory and deletes that
name at the last close.

That name must be in no listing and in no version, and the directory must count as empty; so the file moves to the spare
directory, and operations on the name are done there. When the name is about to be replaced by a rename, it stays until
the rename: there is no moment without a file of that name.
"""

import os
import re
from collections.abc import Callable

from ckptfs.fs.attributes import Attributes, Caller, from_status
from ckptfs.fs.control import control_of
from ckptfs.fs.live import LiveTree
from ckptfs.fs.syscalls import is_rename

_NAME = re.compile(rb"\.fuse_hidden[0-9a-f]{16,}")


def is_hidden_name(path: bytes) -> bool:
    """True if libfuse gave a path its name."""
    return _NAME.fullmatch(path.rpartition(b"/")[2]) is not None


class HiddenFiles:
    """The nameless open files of one mount, by the name that libfuse gives them.

    Args:
        live: The live tree, None for a read-only mount (which hides nothing).
    """

    def __init__(self, live: LiveTree | None) -> None:
        self._live = live
        self._controls: set[bytes] = set()

    def hide(self, path: bytes, hidden: bytes, caller: Caller) -> None:
        """A name goes away while the file is open."""
        name = _name(hidden)
        if self._live is None or control_of(path) is not None:
            self._controls.add(name)
        else:
            self._live.move_out(path, name, keep_name=is_rename(caller.pid))

    def attributes(self, path: bytes) -> Attributes | None:
        """Return a nameless file's attributes; None if it is a control file, which has those of its name."""
        if _name(path) in self._controls:
            return None
        return from_status(os.stat(_name(path), dir_fd=self._spare_fd, follow_symlinks=False), 0)

    def unlink(self, path: bytes) -> None:
        """The last handle is closed."""
        if _name(path) in self._controls:
            self._controls.discard(_name(path))
        else:
            os.unlink(_name(path), dir_fd=self._spare_fd)

    def chmod(self, path: bytes, mode: int) -> None:
        """fchmod(2)."""
        self._on_file(path, lambda name: os.chmod(name, mode, dir_fd=self._spare_fd))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """fchown(2)."""
        self._on_file(path, lambda name: os.chown(name, uid, gid, dir_fd=self._spare_fd))

    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """futimens(3)."""

        def change(name: bytes) -> None:
            status = os.stat(name, dir_fd=self._spare_fd)
            times = (
                status.st_atime_ns if atime_ns is None else atime_ns,
                status.st_mtime_ns if mtime_ns is None else mtime_ns,
            )
            os.utime(name, ns=times, dir_fd=self._spare_fd)

        self._on_file(path, change)

    @property
    def _spare_fd(self) -> int:
        if self._live is None:
            raise FileNotFoundError(2, "a read-only mount hides no file")
        return self._live.spare_fd

    def _on_file(self, path: bytes, change: Callable[[bytes], None]) -> None:
        if _name(path) not in self._controls:
            change(_name(path))


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
