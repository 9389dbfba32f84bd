"""Open files of the live tree that were made without a name (O_TMPFILE), or have lost their last: in no version."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ckptfs.fs.attributes import Caller
from ckptfs.fs.handles import FileHandle, backing_flags
from ckptfs.fs.live.names import parent_of
from ckptfs.fs.live.open_inodes import OpenInodes
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.times import set_times


class NamelessFiles:
    """Those of a live tree."""

    def __init__(self, live: LiveTree, inodes: OpenInodes) -> None:
        self._live = live
        self._inodes = inodes

    def create(self, directory: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Make and open a file without a name."""
        live = self._live
        kept = backing_flags(flags) & ~os.O_DIRECTORY | os.O_TMPFILE
        fd = os.open(live.at(directory), kept, mode, dir_fd=live.root_fd)
        gid = -1 if live.lstat(directory).st_mode & stat.S_ISGID else caller.gid
        if (caller.uid, caller.gid) != (os.geteuid(), os.getegid()):
            made = os.fstat(fd).st_mode
            try:
                os.fchown(fd, caller.uid, gid)
            except PermissionError:
                pass  # see LiveNames.give_to
            os.fchmod(fd, stat.S_IMODE(made))
        handle = self._inodes.take(fd, flags, b"")
        handle.inode.has_name = False
        self._inodes.keep_made(handle)
        return handle

    def link(self, handle: FileHandle, path: bytes) -> None:
        """Give one that was made without a name one."""
        live = self._live
        with live.gate:
            live.changes.mark_name(path)
            live.changes.mark_attributes(parent_of(path))
            live.changes.mark_content(path, handle.ino)
            try:
                os.link(f"/proc/self/fd/{handle.fd}", live.at(path), dst_dir_fd=live.root_fd, follow_symlinks=True)
            except FileExistsError:
                if live.lstat(path).st_ino != handle.ino:
                    raise
                # a process that was killed before it could say so gave it that name
            handle.inode.has_name, handle.inode.path = True, path

    def change(
        self,
        handle: FileHandle,
        mode: int | None,
        owner: tuple[int, int],
        times: tuple[int | None, int | None] | None,
    ) -> None:
        """Set attributes."""
        with self.changing(handle):
            if owner != (-1, -1):
                os.fchown(handle.fd, *owner)
            if mode is not None:
                os.fchmod(handle.fd, mode)
            if times is not None:
                atime_ns, mtime_ns = times

                def change() -> os.stat_result:
                    set_times(handle.fd, None, atime_ns, mtime_ns)
                    return os.fstat(handle.fd)

                self._live.hydrator.set_mtime(mtime_ns, change)

    @contextmanager
    def changing(self, handle: FileHandle) -> Iterator[None]:
        """Attributes of one change. It may have a name after all: one that the kernel does not know."""
        live = self._live
        with live.gate:
            self._inodes.mark_attributes(handle.ino)
            yield
            live.changes.times.renew(os.fstat(handle.fd))
