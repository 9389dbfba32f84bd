"""Changes that nobody tells us of: files that the kernel writes past us, and files that programs have mapped.

Such a file counts as changed when it is opened, and at each capture when it looks other than at the last one. What may
be mapped, and when, is in docs/CONCURRENCY.md, "Opening files under passthrough".
"""

import os
from collections.abc import Mapping

from ckptfs.capture.scan import inode_of
from ckptfs.fs.handles import FileHandle, Inode
from ckptfs.fs.live.open_inodes import OpenInodes
from ckptfs.fs.live.tree import LiveTree


class UnseenChanges:
    """Those of a live tree."""

    def __init__(self, live: LiveTree, inodes: OpenInodes) -> None:
        self._live = live
        self._inodes = inodes

    def going_past(self, handle: FileHandle) -> None:
        """The kernel will read and write this handle's file itself: what may change through it counts as changed."""
        inode, live = handle.inode, self._live
        handle.unseen = True
        if not handle.is_writable:
            return
        with live.gate, self._inodes.all():
            inode.unseen_writers += 1
            if handle.flags & os.O_ACCMODE == os.O_RDWR:
                inode.mappable -= 1
                inode.maybe_mapped = True
            if inode.has_name:
                live.changes.mark_content(inode.path, inode.ino)
            live.guards.protect(inode.ino, 0)

    def closing(self, handle: FileHandle) -> None:
        """A handle that goes past us and can write is about to be closed. Called inside the gate."""
        self._mark_if_changed(handle.inode, os.fstat(handle.fd))

    def go_on_mapped(self, ino: int, path: bytes) -> bool:
        """A program may have a mapping of a file since before this process began; return False if the file is gone."""
        live = self._live
        with live.gate:
            if inode_of(live.root_fd, path) != ino:
                found = live.name_of(ino)
                if found is None:
                    return False
                path = found
            with self._inodes.all() as inodes:
                inodes.setdefault(ino, Inode(ino, path=path)).maybe_mapped = True
            live.changes.mark_content(path, ino)
            live.guards.protect(ino, 0)
            return True

    # at a capture

    def inodes(self) -> set[int]:
        """Return the inodes that may change at any moment without our seeing it."""
        with self._inodes.all() as inodes:
            return {i.ino for i in inodes.values() if i.has_name and (i.unseen_writers or i.maybe_mapped)}

    def mapped(self) -> set[int]:
        """Return those of them that stores into a mapping may change."""
        with self._inodes.all() as inodes:
            return {i.ino for i in inodes.values() if i.has_name and i.maybe_mapped}

    def mappable(self) -> set[int]:
        """Return the inodes that a program may have mapped shared and writable through us."""
        with self._inodes.all() as inodes:
            return {i.ino for i in inodes.values() if i.mappable and i.has_name}

    def names_of(self, numbers: set[int]) -> list[tuple[bytes, int]]:
        """Return a name that each of some open inodes had lately."""
        with self._inodes.all() as inodes:
            return [(inode.path, inode.ino) for inode in inodes.values() if inode.ino in numbers]

    def mark(self) -> None:
        """Mark what changed past us since the last capture. Called inside the gate, shared or closed."""
        for ino in self.inodes():
            inode = self._inodes.find(ino)
            if inode is None:
                continue  # just closed, and marked by that
            try:
                if inode.maybe_mapped:
                    self._write_back(inode)
                status = self._live.lstat(inode.path)
            except OSError:
                continue  # its name went away together with it
            if status.st_ino == ino:
                self._mark_if_changed(inode, status)

    def captured(self, looks: Mapping[int, os.stat_result]) -> None:
        """A capture was made: remember what the unseen files in it looked like, and say in the journal that all unseen
        files may change.

        Args:
            looks: Not what they look like now: they may have changed since their bytes were taken.
        """
        for ino in self.inodes():
            inode = self._inodes.find(ino)
            if inode is None:
                continue
            self._live.changes.journal.content(inode.path)
            if ino in looks:
                inode.signature = _signature(looks[ino])

    def _mark_if_changed(self, inode: Inode, status: os.stat_result) -> None:
        if inode.has_name and inode.signature != _signature(status):
            self._live.changes.mark_content(inode.path, inode.ino)

    def _write_back(self, inode: Inode) -> None:
        """Write dirty pages to disk: the next store into a mapping then faults, and sets the times."""
        # by now the name may be a fifo's, whose other end nobody would ever open
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._live.at(inode.path), flags, dir_fd=self._live.root_fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
