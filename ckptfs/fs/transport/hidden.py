"""Files that are open but have no name: libfuse 2 renames them to `.fuse_hidden...` in their directory and deletes that
name at the last close.

That name must be in no listing and in no version, and the directory must count as empty; so the file moves to the spare
directory, and operations on the name are done there. When the name is about to be replaced by a rename, it stays until
the rename: there is no moment without a file of that name. The file may have further names in the tree, which keep it
in versions.
"""

import os
import re
from collections.abc import Callable

from ckptfs.capture.reach import Reachable
from ckptfs.capture.scan import descriptor_path
from ckptfs.fs.attributes import Attributes, Caller
from ckptfs.fs.control import control_of
from ckptfs.fs.handles import FileHandle
from ckptfs.fs.syscalls import is_rename
from ckptfs.fs.times import set_times
from ckptfs.fs.writable import Writable

_NAME = re.compile(rb"\.fuse_hidden[0-9a-f]{16,}")


class HiddenFiles:
    """The nameless open files of one mount, by the name that libfuse gives them.

    Args:
        writable: The live tree and its open files; None for a read-only mount, which hides nothing.
    """

    def __init__(self, writable: Writable | None) -> None:
        self._writable = writable
        self._controls: set[bytes] = set()
        self._files: dict[bytes, tuple[bytes, int]] = {}
        """Name to path and inode."""

    def has(self, path: bytes) -> bool:
        """True if a path is that of a nameless open file."""
        return _name(path) in self._files or _name(path) in self._controls

    def hide(self, path: bytes, hidden: bytes, caller: Caller) -> bool:
        """Rename to `hidden` if that is libfuse taking an open file's name away; return False if a program renames."""
        name = _name(hidden)
        if _NAME.fullmatch(name) is None or self._writable is None:
            return False
        if control_of(path) is not None:
            self._controls.add(name)
            return True
        live = self._writable.live
        ino = live.lstat(path).st_ino
        if self._writable.open_files.inodes.find(ino) is None:
            return False
        self._writable.names.move_out(path, name, keep_name=is_rename(caller.pid))
        self._files[name] = hidden, ino
        return True

    @property
    def xattrs(self) -> "HiddenFiles":
        """What has the extended attributes of a nameless file, as Operations.xattrs has those of others."""
        return self

    def paths_of(self, ino: int) -> list[bytes]:
        """Return the paths by which the kernel knows an inode that has lost names."""
        return [path for path, of in list(self._files.values()) if of == ino]

    def attributes(self, path: bytes) -> Attributes | None:
        """Return a nameless file's attributes; None if it is a control file, which has those of its name."""
        if _name(path) in self._controls:
            return None
        writable = self._there()
        status = os.stat(_name(path), dir_fd=writable.live.spare_fd, follow_symlinks=False)
        inode = writable.open_files.inodes.find(status.st_ino)
        # one more than it has: libfuse takes the name that it gave off the count
        if inode is None or not inode.has_name:
            return writable.live.shown(status, 1)
        return writable.live.shown(status, writable.live.links.count(status.st_ino) + 1)

    def unlink(self, path: bytes) -> None:
        """The last handle is closed."""
        name = _name(path)
        if name in self._controls:
            self._controls.discard(name)
        else:
            os.unlink(name, dir_fd=self._there().live.spare_fd)
            self._files.pop(name, None)

    def open(self, path: bytes, flags: int) -> FileHandle:
        """Open it once more, through /proc/PID/fd."""
        return self._there().open_files.open_hidden(_name(path), flags)

    def truncate(self, path: bytes, size_bytes: int) -> None:
        """truncate(2) through /proc/PID/fd."""
        open_files = self._there().open_files
        handle = open_files.open_hidden(_name(path), os.O_WRONLY)
        try:
            open_files.truncate(handle, size_bytes)
        finally:
            open_files.close(handle)

    def chmod(self, path: bytes, mode: int) -> None:
        """fchmod(2)."""
        self._change(path, lambda name, fd: os.chmod(name, mode, dir_fd=fd))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """fchown(2)."""
        self._change(path, lambda name, fd: os.chown(name, uid, gid, dir_fd=fd))

    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """futimens(3)."""
        self._change(path, lambda name, fd: set_times(fd, name, atime_ns, mtime_ns))

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """fgetxattr(2)."""
        return os.getxattr(self._full(path), name, follow_symlinks=False)

    def listxattr(self, path: bytes) -> list[bytes]:
        """flistxattr(2)."""
        return [os.fsencode(name) for name in os.listxattr(self._full(path), follow_symlinks=False)]

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        """fsetxattr(2)."""
        self._change(path, lambda own, fd: os.setxattr(descriptor_path(fd, own), name, value, flags))

    def removexattr(self, path: bytes, name: bytes) -> None:
        """fremovexattr(2)."""
        self._change(path, lambda own, fd: os.removexattr(descriptor_path(fd, own), name))

    def _there(self) -> Writable:
        if self._writable is None:
            raise FileNotFoundError(2, "a read-only mount hides no file")
        return self._writable

    def _full(self, path: bytes) -> Reachable:
        return descriptor_path(self._there().live.spare_fd, _name(path))

    def _change(self, path: bytes, change: Callable[[bytes, int], None]) -> None:
        """Change attributes of a file, and of its names in the tree if it has any."""
        name = _name(path)
        if name in self._controls:
            return
        writable = self._there()
        spare_fd = writable.live.spare_fd
        with writable.live.gate:
            writable.open_files.inodes.mark_attributes(os.stat(name, dir_fd=spare_fd, follow_symlinks=False).st_ino)
            change(name, spare_fd)
            writable.live.changes.times.renew(os.stat(name, dir_fd=spare_fd, follow_symlinks=False))


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
