"""Which way an opened file goes: past us (passthrough) or through us (mediated).

The kernel allows only one way at a time for an inode, and one backing id for all who go past us; otherwise a program
gets EIO. A shared writable mapping of a passthrough file lives on after the last close without our seeing it, and only
a read-write descriptor can make one. Hence:

    already open as      read-only      write-only     read-write
    nothing              passthrough    passthrough    mediated
    nothing, but mapped  passthrough    passthrough    passthrough
    nothing, not whole   mediated       -              -
    passthrough          joins          joins          joins, "may be mapped"
    mediated             mediated       mediated       mediated

An inode is "already open" until the last release of its handles. It counts as mapped once it "may be mapped": such a
mapping shares its pages with the backing file, and a mediated handle would read others. A file that could not be given
a backing id is mediated. A file is not whole while its data are being fetched; it can only be opened for reading then.

Pure but for the two calls that are injected. Source: the kernel's fs/fuse/iomode.c and
Documentation/filesystems/fuse/fuse-passthrough.rst; tests: every cell, with real opens.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Use:
    backing_id: int = 0
    """Not 0: passthrough."""
    handles: int = 0


class Openings:
    """The ways of all open inodes.

    Args:
        register: Makes a backing id of a file; raises OSError. None: all inodes are mediated.
        release: Gives it back.
    """

    def __init__(self, register: Callable[[int], int] | None, release: Callable[[int], None]) -> None:
        self._register = register
        self._release = release
        self._uses: dict[int, _Use] = {}
        self._lock = threading.Lock()

    def open(
        self,
        ino: int,
        flags: int,
        backing_fd: Callable[[], int],
        *,
        maybe_mapped: bool = False,
        is_whole: bool = True,
    ) -> int:
        """Count a new handle of an inode; return its backing id, 0 if it is mediated.

        Args:
            flags: Of open(2).
            backing_fd: Opens the backing file for reading and writing, since who joins later may write; it is closed
            here.
            maybe_mapped: A program may have a mapping of the backing file that outlived its handle.
            is_whole: False if the backing file had not got all its data when this handle was opened.
        """
        with self._lock:
            use = self._uses.get(ino)
            if use is None:
                use = _Use()
                if is_whole and (maybe_mapped or flags & os.O_ACCMODE != os.O_RDWR):
                    use.backing_id = self._make_backing(backing_fd)
                self._uses[ino] = use
            use.handles += 1
            return use.backing_id

    def adopt(self, ino: int, backing_id: int) -> None:
        """Count a handle that a server before this one opened."""
        with self._lock:
            use = self._uses.setdefault(ino, _Use(backing_id))
            use.handles += 1

    def close(self, ino: int) -> None:
        """A handle is released."""
        with self._lock:
            use = self._uses[ino]
            use.handles -= 1
            if use.handles == 0:
                del self._uses[ino]
                if use.backing_id:
                    self._release(use.backing_id)

    def _make_backing(self, backing_fd: Callable[[], int]) -> int:
        if self._register is None:
            return 0
        try:
            fd = backing_fd()
        except OSError:
            return 0
        try:
            return self._register(fd)
        except OSError:
            return 0
        finally:
            os.close(fd)
