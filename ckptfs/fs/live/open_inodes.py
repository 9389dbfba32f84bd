"""The inodes of the live tree that are open: one entry for all handles of each.

An open inode that loses its last name keeps one in the spare directory, if another process may take over.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ckptfs.fs.handles import FileHandle, Inode
from ckptfs.fs.hydration.fetching import Reader
from ckptfs.fs.live.names import LiveNames
from ckptfs.fs.live.tree import LiveTree


class OpenInodes:
    """All of a live tree. Thread-safe.

    Args:
        keeps_nameless: Somebody may take over.
    """

    def __init__(self, live: LiveTree, names: LiveNames, *, keeps_nameless: bool) -> None:
        self._live = live
        self._keeps_nameless = keeps_nameless
        self._inodes: dict[int, Inode] = {}
        self._lock = threading.Lock()
        self.used_ns: dict[int, int] = {}
        """Inode to when it was last closed, ns since 1970."""
        names.before_unlink = self._keep
        names.on_nameless = self._lost_name
        names.on_renamed = self._renamed

    def take(self, fd: int, flags: int, path: bytes | None, reader: Reader | None = None) -> FileHandle:
        """Return a handle of a file that has just been opened, by a path of the tree or without one."""
        ino = os.fstat(fd).st_ino
        with self._lock:
            inode = self._inodes.setdefault(ino, Inode(ino, has_name=path is not None))
            if path is not None:
                inode.path = path
            handle = FileHandle(fd, inode, flags, reader=reader)
            inode.handles += 1
            inode.writers += handle.is_writable
            inode.mappable += flags & os.O_ACCMODE == os.O_RDWR
        return handle

    def drop(self, handle: FileHandle) -> None:
        """A handle is about to be closed."""
        with self._lock:
            inode = handle.inode
            self.used_ns[inode.ino] = time.time_ns()
            inode.handles -= 1
            inode.writers -= handle.is_writable
            if handle.unseen:
                inode.unseen_writers -= handle.is_writable
            else:
                inode.mappable -= handle.flags & os.O_ACCMODE == os.O_RDWR
            if inode.handles == 0:
                if inode.is_kept:
                    inode.is_kept = False
                    self._live.hydrator.remove_left(inode.ino)
                    os.unlink(_kept_name(inode.ino), dir_fd=self._live.spare_fd)
                if not (inode.maybe_mapped and inode.has_name):
                    self._inodes.pop(inode.ino, None)

    def find(self, ino: int) -> Inode | None:
        """Return an inode with open handles, or that may be mapped."""
        return self._inodes.get(ino)

    @contextmanager
    def all(self) -> Iterator[dict[int, Inode]]:
        """Let all be looked at, or changed, while none comes or goes."""
        with self._lock:
            yield self._inodes

    def mark_attributes(self, ino: int) -> None:
        """The attributes of an open inode change through a name that is no part of the tree. Called inside the gate."""
        inode = self._inodes.get(ino)
        if inode is not None and inode.has_name:
            self._live.changes.mark_attributes(inode.path)

    # names that go

    def keep_made(self, handle: FileHandle) -> None:
        """Keep a file that was made without a name."""
        if not self._keeps_nameless:
            return
        try:
            os.link(f"/proc/self/fd/{handle.fd}", _kept_name(handle.ino), dst_dir_fd=self._live.spare_fd)
            handle.inode.is_kept = True
        except OSError:
            pass  # with O_EXCL it may never have a name; without room, as in _keep

    def is_kept(self, ino: int) -> bool:
        """True of what this process keeps, or the one before it kept."""
        try:
            os.stat(_kept_name(ino), dir_fd=self._live.spare_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open_kept(self, ino: int, flags: int) -> int:
        """Open what the process before this one kept. Raises OSError."""
        return os.open(_kept_name(ino), flags, dir_fd=self._live.spare_fd)

    def _keep(self, ino: int, path: bytes) -> None:
        """An inode is about to lose a name."""
        if not self._keeps_nameless:
            return
        with self._lock:
            inode = self._inodes.get(ino)
            # also one that has others, for the kernel may know none of them
            if inode is None or not inode.handles or inode.is_kept:
                return
            try:
                self._live.hydrator.write_left(ino)
                os.link(
                    self._live.at(path), _kept_name(ino), src_dir_fd=self._live.root_fd, dst_dir_fd=self._live.spare_fd,
                    follow_symlinks=False,
                )  # fmt: skip
                inode.is_kept = True
            except FileExistsError:
                inode.is_kept = True  # by a process that was killed before the name went
            except OSError:
                pass  # no room: all but a server that takes over can do without

    def _lost_name(self, ino: int) -> None:
        self.used_ns.pop(ino, None)
        with self._lock:
            inode = self._inodes.get(ino)
            if inode is not None:
                inode.has_name = False
                if inode.handles == 0:
                    # it was kept for a mapping that may change it; its number may come back for another file
                    del self._inodes[ino]

    def _renamed(self, ino: int, path: bytes) -> None:
        inode = self._inodes.get(ino)
        if inode is not None:
            inode.path = path


def _kept_name(ino: int) -> bytes:
    return b"kept-%d" % ino
