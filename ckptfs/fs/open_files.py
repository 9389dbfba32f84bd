"""Open files of the live tree: handles, reading, writing, and what a write must do first.

A writable handle marks its inode once per capture epoch and gives pending versions their own copy when it writes below
what they captured; after that a write costs one pwrite.
"""

import ctypes
import errno
import os
import threading
from dataclasses import dataclass

from ckptfs.capture.scan import read_xattrs
from ckptfs.fs.attributes import Attributes, Caller
from ckptfs.fs.live import LiveTree, parent_of

# Not for the backing file: the kernel gives every write its offset (O_APPEND would ignore it) and does direct I/O with
# the program
# itself; creation and exclusion were decided before.
_NOT_PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DIRECT | os.O_NOCTTY | os.O_TRUNC

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_FALLOC_FL_KEEP_SIZE = 1


@dataclass(slots=True)
class Inode:
    """An inode with open handles."""

    ino: int
    handles: int = 0
    writers: int = 0
    mappable: int = 0
    """Handles opened O_RDWR: only those can be mapped shared and writable."""
    marked_epoch: int = 0
    has_name: bool = True
    path: bytes = b""
    """The name under which it was last opened, or that it was renamed to since."""


@dataclass(slots=True)
class FileHandle:
    """One open file of the live tree."""

    fd: int
    inode: Inode
    flags: int

    @property
    def is_writable(self) -> bool:
        """True if it can change bytes."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class OpenFiles:
    """All open files of a live tree."""

    def __init__(self, live: LiveTree) -> None:
        self._live = live
        self._inodes: dict[int, Inode] = {}
        self._lock = threading.Lock()
        live.on_nameless = self._lost_name
        live.on_renamed = self._renamed

    def create(self, path: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Open a file that was not there a moment ago, making it."""
        live = self._live
        with live.gate:
            live.changes.mark_name(path)
            live.changes.mark_attributes(parent_of(path))
            kept = flags & ~_NOT_PASSED_ON | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(path, kept | os.O_CREAT | os.O_EXCL, mode, dir_fd=live.root_fd)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            else:
                live.changes.mark_content(path, os.fstat(fd).st_ino)
                live.give_to(path, mode, caller)
                return self._handle(fd, flags, path)
        return self.open(path, flags)

    def open(self, path: bytes, flags: int) -> FileHandle:
        """Open a file; one that has no data yet gets them first."""
        live = self._live
        truncates = flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY
        ino = live.lstat(path).st_ino
        if not truncates:
            live.hydrator.ensure(ino, path)
        with live.hydrator.held(ino), live.gate:
            if truncates and self._replace_if_shared(path, ino):
                ino = live.lstat(path).st_ino
            fd = os.open(path, flags & ~_NOT_PASSED_ON | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=live.root_fd)
            if truncates:
                try:
                    live.before_truncate(path, ino, 0)
                    os.ftruncate(fd, 0)
                except BaseException:
                    os.close(fd)
                    raise
            return self._handle(fd, flags, path)

    def close(self, handle: FileHandle) -> None:
        """Close a handle."""
        with self._lock:
            inode = handle.inode
            inode.handles -= 1
            inode.writers -= handle.is_writable
            inode.mappable -= handle.flags & os.O_ACCMODE == os.O_RDWR
            if inode.handles == 0:
                self._inodes.pop(inode.ino, None)
        os.close(handle.fd)

    def read_into(self, handle: FileHandle, buffer: memoryview, offset_bytes: int) -> int:
        """Fill a buffer from a file; return how many bytes there were."""
        return os.preadv(handle.fd, [buffer], offset_bytes)

    def write(self, handle: FileHandle, path: bytes | None, data: memoryview, offset_bytes: int) -> int:
        """Write all of the data.

        Args:
            path: The file's name now; None if the transport does not know one.
        """
        with self._live.gate:
            self._before_change(handle, path, offset_bytes)
            written = os.pwrite(handle.fd, data, offset_bytes)
            while written < len(data):
                written += os.pwrite(handle.fd, data[written:], offset_bytes + written)
            return written

    def truncate(self, handle: FileHandle, path: bytes | None, size_bytes: int) -> None:
        """Set the size of an open file."""
        with self._live.gate:
            self._before_change(handle, path, size_bytes)
            os.ftruncate(handle.fd, size_bytes)

    def allocate(self, handle: FileHandle, path: bytes | None, mode: int, offset_bytes: int, size_bytes: int) -> None:
        """fallocate(2), in every mode that the backing filesystem has."""
        with self._live.gate:
            # plain allocation changes no byte below the captured size; the other modes do
            self._before_change(handle, path, offset_bytes if mode & ~_FALLOC_FL_KEEP_SIZE else 1 << 62)
            if _libc.fallocate(handle.fd, mode, offset_bytes, size_bytes) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def sync(self, handle: FileHandle, data_only: bool) -> None:
        """Write a file back to the local disk."""
        (os.fdatasync if data_only else os.fsync)(handle.fd)

    def attributes(self, handle: FileHandle) -> Attributes:
        """Return an open file's attributes, also when it has no name any more."""
        return self._live.shown(os.fstat(handle.fd), None if handle.inode.has_name else 0)

    def _lost_name(self, ino: int) -> None:
        inode = self._inodes.get(ino)
        if inode is not None:
            inode.has_name = False

    def _renamed(self, ino: int, path: bytes) -> None:
        inode = self._inodes.get(ino)
        if inode is not None:
            inode.path = path

    def mappable_inodes(self) -> set[int]:
        """Return the inodes that a program may have mapped shared and writable."""
        with self._lock:
            return {inode.ino for inode in self._inodes.values() if inode.mappable and inode.has_name}

    def names_of(self, inodes: set[int]) -> list[tuple[bytes, int]]:
        """Return a name that each of some open inodes had lately."""
        with self._lock:
            return [(inode.path, inode.ino) for inode in self._inodes.values() if inode.ino in inodes]

    def _handle(self, fd: int, flags: int, path: bytes) -> FileHandle:
        ino = os.fstat(fd).st_ino
        with self._lock:
            inode = self._inodes.setdefault(ino, Inode(ino))
            inode.path = path
            handle = FileHandle(fd, inode, flags)
            inode.handles += 1
            inode.writers += handle.is_writable
            inode.mappable += flags & os.O_ACCMODE == os.O_RDWR
        return handle

    def _before_change(self, handle: FileHandle, path: bytes | None, offset_bytes: int) -> None:
        inode, live = handle.inode, self._live
        if inode.marked_epoch != live.changes.epoch and inode.has_name:
            live.changes.mark_content(inode.path if path is None else path, inode.ino)
            inode.marked_epoch = live.changes.epoch
        if live.guards.is_guarded(inode.ino):
            live.guards.protect(inode.ino, offset_bytes)

    def _replace_if_shared(self, path: bytes, ino: int) -> bool:
        """Before a truncation to nothing: give the name a fresh inode where that spares copying what a pending version
        shares.
        """
        live = self._live
        if not live.guards.is_guarded(ino) or ino in self._inodes or live.links.count(ino) > 1:
            return False
        status, above = live.lstat(path), parent_of(path)
        above_status = live.lstat(above)
        fresh = b"fresh-%d-%d" % (ino, threading.get_ident())
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=live.spare_fd)
        try:
            os.chown(fd, status.st_uid, status.st_gid)
            for name, value in read_xattrs(live.root_fd, path):
                os.setxattr(fd, name, value)
            os.chmod(fd, status.st_mode & 0o7777)
            live.changes.mark_content(path, os.fstat(fd).st_ino)
            os.rename(fresh, path, src_dir_fd=live.spare_fd, dst_dir_fd=live.root_fd)
        except OSError as error:
            os.unlink(fresh, dir_fd=live.spare_fd)
            if error.errno == errno.ENOSPC:
                raise
            return False  # copying does it as well
        finally:
            os.close(fd)
        # a truncation does not touch the directory's times
        times = (above_status.st_atime_ns, above_status.st_mtime_ns)
        os.utime(above or b".", ns=times, dir_fd=live.root_fd)
        live.changes.forget_inode(ino)
        live.hydrator.forget(ino)
        return True
