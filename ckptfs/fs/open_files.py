"""Open files of the live tree: handles, reading, writing, and what a write must do first.

A writable handle marks its inode once per capture epoch and gives pending versions their own copy when it writes below
what they captured; after that a write costs one pwrite.
"""

import ctypes
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckptfs.capture.scan import descriptor_path, inode_of, read_xattrs
from ckptfs.errors import CkptfsError
from ckptfs.fs.attributes import Attributes, Caller
from ckptfs.fs.fetching import Reader
from ckptfs.fs.live import LiveTree, parent_of
from ckptfs.fs.times import NOW_NS, set_times

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
    unseen_writers: int = 0
    """Handles through which the kernel writes itself."""
    maybe_mapped: bool = False
    """A mapping that nobody sees may change it, even when no handle is open any more."""
    signature: tuple[int, int, int] | None = None
    """Size, mtime and ctime at the last capture, of an inode whose changes are not seen."""
    marked_epoch: int = 0
    has_name: bool = True
    is_kept: bool = False
    """It has a name in the spare directory, for the server that takes over from this one."""
    path: bytes = b""
    """The name under which it was last opened, or that it was renamed to since."""


@dataclass(slots=True)
class FileHandle:
    """One open file of the live tree."""

    fd: int
    inode: Inode
    flags: int
    unseen: bool = False
    """The kernel reads and writes the backing file itself."""
    reader: Reader | None = None
    """Of a file that was not whole when it was opened."""
    replaced_fd: int | None = None
    """Holds the inode whose name this one took when it was opened to be truncated. Its number must not come back before
    everybody knows that the name has another; closed with the handle."""

    @property
    def is_writable(self) -> bool:
        """True if it can change bytes."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class OpenFiles:
    """All open files of a live tree.

    Args:
        keeps_nameless: Somebody may take over: an open file that loses its last name keeps one in the spare directory.
        on_read: Told of the path of each file that is opened for reading.
    """

    def __init__(
        self, live: LiveTree, *, keeps_nameless: bool = False, on_read: Callable[[bytes], None] = lambda path: None
    ) -> None:
        self._live = live
        self.on_read = on_read
        self._keeps_nameless = keeps_nameless
        self._inodes: dict[int, Inode] = {}
        self.used_ns: dict[int, int] = {}
        """Inode to when it was last closed, ns since 1970."""
        self._lock = threading.Lock()
        live.before_unlink = self._keep
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
                fd = os.open(live.at(path), kept | os.O_CREAT | os.O_EXCL, mode, dir_fd=live.root_fd)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            else:
                live.changes.mark_content(path, os.fstat(fd).st_ino)
                live.give_to(path, mode, caller)
                return self._handle(fd, flags, path)
        return self.open(path, flags)

    def open(self, path: bytes, flags: int) -> FileHandle:
        """Open a file; one that is to be changed and is not whole gets its data first."""
        live = self._live
        truncates = bool(flags & os.O_TRUNC)
        needs_data = not truncates and flags & os.O_ACCMODE != os.O_RDONLY
        while True:
            ino = live.lstat(path).st_ino
            if needs_data:
                live.hydrator.ensure(ino, path)
            with live.gate:
                if not live.is_still(path, ino, with_data=needs_data):
                    continue
                replaced_fd = self._replace_if_shared(path, ino) if truncates else None
                try:
                    handle = self._open_now(path, live.lstat(path).st_ino if replaced_fd is not None else ino, flags)
                except BaseException:
                    _close(replaced_fd)
                    raise
                if handle is None:
                    _close(replaced_fd)
                    continue
                handle.replaced_fd = replaced_fd
                if truncates:
                    try:
                        with live.truncating(path, handle.inode.ino, 0):
                            os.truncate(descriptor_path(handle.fd), 0)  # it may be open for reading
                    except BaseException:
                        self.close(handle)
                        raise
                elif flags & os.O_ACCMODE != os.O_WRONLY:
                    self.on_read(path)
                return handle

    def _open_now(self, path: bytes, ino: int, flags: int) -> FileHandle | None:
        """Open a file inside the gate; return None if a path is not an inode's any more."""
        live, kept = self._live, flags & ~_NOT_PASSED_ON | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            # before the file itself, for with its name it would lose what it is to be filled with
            reader = live.hydrator.reader(path, ino) if not flags & os.O_TRUNC else None
            try:
                fd = os.open(live.at(path), kept, dir_fd=live.root_fd)
            except BaseException:
                _close_reader(reader)
                raise
        except FileNotFoundError:
            return None
        if os.fstat(fd).st_ino != ino:
            os.close(fd)
            _close_reader(reader)
            return None
        if reader is not None and flags & os.O_ACCMODE != os.O_RDONLY:
            os.close(fd)
            reader.close()
            raise CkptfsError(f"{os.fsdecode(path)!r} is to be changed and has not got all its data")
        return self._handle(fd, flags, path, reader)

    def open_hidden(self, name: bytes, flags: int) -> FileHandle:
        """Open a file in the spare directory once more, through /proc/PID/fd."""
        live = self._live
        kept = flags & ~_NOT_PASSED_ON | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, kept, dir_fd=live.spare_fd)
        return self._opened_again(fd, flags)

    def _opened_again(self, fd: int, flags: int) -> FileHandle:
        """Make a handle of a file without a name that is open already. Not to be called inside the gate."""
        live, ino = self._live, os.fstat(fd).st_ino
        try:
            if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_TRUNC:
                live.hydrator.ensure(ino, b"")
            with live.gate:
                handle = self._handle(fd, flags, None, live.hydrator.reader(b"", ino))
        except BaseException:
            os.close(fd)
            raise
        if flags & os.O_TRUNC:
            try:
                self.truncate(handle, 0)
            except BaseException:
                self.close(handle)
                raise
        return handle

    def reopen(self, handle: FileHandle, flags: int) -> FileHandle:
        """Open an open file that has no name once more, through /proc/PID/fd."""
        kept = flags & ~_NOT_PASSED_ON | os.O_CLOEXEC
        return self._opened_again(os.open(descriptor_path(handle.fd), kept), flags)

    def find(self, ino: int) -> Inode | None:
        """Return an inode with open handles."""
        return self._inodes.get(ino)

    def mark_attributes(self, ino: int) -> None:
        """The attributes of an open inode change through a name that is no part of the tree. Called inside the gate."""
        inode = self._inodes.get(ino)
        if inode is not None and inode.has_name:
            self._live.changes.mark_attributes(inode.path)

    def close(self, handle: FileHandle) -> None:
        """Close a handle."""
        if handle.unseen and handle.is_writable:
            # at once: a capture in between would neither look at the file nor find it marked
            with self._live.gate:
                self._mark_if_changed(handle.inode, os.fstat(handle.fd))
                self._drop(handle)
        else:
            self._drop(handle)
        _close_reader(handle.reader)
        os.close(handle.fd)
        _close(handle.replaced_fd)

    def _drop(self, handle: FileHandle) -> None:
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

    def _keep(self, ino: int, path: bytes) -> None:
        """An inode is about to lose a name."""
        if not self._keeps_nameless:
            return
        with self._lock:
            inode = self._inodes.get(ino)
            if inode is None or not inode.handles or inode.is_kept or self._live.links.count(ino) > 1:
                return
            try:
                self._live.hydrator.write_left(ino)
                os.link(
                    self._live.at(path), _kept_name(ino), src_dir_fd=self._live.root_fd, dst_dir_fd=self._live.spare_fd,
                    follow_symlinks=False,
                )  # fmt: skip
                inode.is_kept = True
            except OSError:
                pass  # no room: all but a server that takes over can do without

    def go_on(self, path: bytes | None, ino: int, flags: int) -> FileHandle:
        """Open a file that a program has had open since before this process began. Raises OSError."""
        live = self._live
        kept = flags & ~(_NOT_PASSED_ON | os.O_TMPFILE) | os.O_NOFOLLOW | os.O_CLOEXEC
        with live.gate:
            if path is not None:
                fd = os.open(live.at(path), kept, dir_fd=live.root_fd)
                if os.fstat(fd).st_ino == ino:
                    return self._handle(fd, flags, path, live.hydrator.reader(path, ino))
                os.close(fd)
            fd = os.open(_kept_name(ino), kept, dir_fd=live.spare_fd)
            try:
                reader = live.hydrator.go_on_nameless(ino, fd)
            except BaseException:
                os.close(fd)
                raise
            handle = self._handle(fd, flags, None, reader)
            handle.inode.has_name, handle.inode.is_kept = False, True
            return handle

    def go_on_mapped(self, ino: int, path: bytes) -> bool:
        """A program may have a mapping of a file since before this process began; return False if the file is gone."""
        live = self._live
        with live.gate:
            if inode_of(live.root_fd, path) != ino:
                found = next((below for below, its_ino, _ in live.walk(b"") if its_ino == ino), None)
                if found is None:
                    return False
                path = found
            with self._lock:
                inode = self._inodes.setdefault(ino, Inode(ino, path=path))
                inode.maybe_mapped = True
            live.changes.mark_content(path, ino)
            live.guards.protect(ino, 0)
            return True

    def going_past(self, handle: FileHandle) -> None:
        """The kernel will read and write this handle's file itself: what may change through it counts as changed."""
        inode, live = handle.inode, self._live
        handle.unseen = True
        if not handle.is_writable:
            return
        with live.gate, self._lock:
            inode.unseen_writers += 1
            if handle.flags & os.O_ACCMODE == os.O_RDWR:
                inode.mappable -= 1
                inode.maybe_mapped = True
            if inode.has_name:
                live.changes.mark_content(inode.path, inode.ino)
            live.guards.protect(inode.ino, 0)

    def unseen(self) -> set[int]:
        """Return the inodes that may change at any moment without our seeing it."""
        with self._lock:
            return {i.ino for i in self._inodes.values() if i.has_name and (i.unseen_writers or i.maybe_mapped)}

    def mapped(self) -> set[int]:
        """Return those of them that stores into a mapping may change."""
        with self._lock:
            return {i.ino for i in self._inodes.values() if i.has_name and i.maybe_mapped}

    def mark_unseen_changes(self) -> None:
        """Mark what changed past us since the last capture. Called inside the gate, shared or closed."""
        for ino in self.unseen():
            inode = self._inodes.get(ino)
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
        for ino in self.unseen():
            inode = self._inodes.get(ino)
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
        fd = os.open(self._live.at(inode.path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._live.root_fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def create_nameless(self, directory: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Make and open a file without a name."""
        live = self._live
        kept = flags & ~(_NOT_PASSED_ON | os.O_DIRECTORY) | os.O_TMPFILE | os.O_CLOEXEC
        fd = os.open(live.at(directory), kept, mode, dir_fd=live.root_fd)
        gid = -1 if live.lstat(directory).st_mode & stat.S_ISGID else caller.gid
        if (caller.uid, caller.gid) != (os.geteuid(), os.getegid()):
            try:
                os.fchown(fd, caller.uid, gid)
            except PermissionError:
                pass  # see LiveTree.give_to
            os.fchmod(fd, mode)
        handle = self._handle(fd, flags, b"")
        handle.inode.has_name = False
        if self._keeps_nameless:
            try:
                os.link(f"/proc/self/fd/{fd}", _kept_name(handle.inode.ino), dst_dir_fd=live.spare_fd)
                handle.inode.is_kept = True
            except OSError:
                pass  # with O_EXCL it may never have a name
        return handle

    def link_nameless(self, handle: FileHandle, path: bytes) -> None:
        """Give an open file that was made without a name one."""
        live = self._live
        with live.gate:
            live.changes.mark_name(path)
            live.changes.mark_attributes(parent_of(path))
            live.changes.mark_content(path, handle.inode.ino)
            os.link(f"/proc/self/fd/{handle.fd}", live.at(path), dst_dir_fd=live.root_fd, follow_symlinks=True)
            handle.inode.has_name, handle.inode.path = True, path

    def change_nameless(
        self,
        handle: FileHandle,
        mode: int | None,
        owner: tuple[int, int],
        times: tuple[int | None, int | None] | None,
    ) -> None:
        """Set attributes of an open file that has no name, and so is in no version."""
        if owner != (-1, -1):
            os.fchown(handle.fd, *owner)
        if mode is not None:
            os.fchmod(handle.fd, mode)
        if times is not None:
            set_times(handle.fd, None, *times)
            stub = self._live.hydrator.get(handle.inode.ino)
            if stub is not None:
                stub.mtime_ns = os.fstat(handle.fd).st_mtime_ns

    def copy_range(
        self, source_fd: int, target: FileHandle, source_bytes: int, target_bytes: int, size_bytes: int
    ) -> int:
        """Copy bytes from any file to an open one; return how many."""
        with self._live.gate:
            self._before_change(target, target_bytes)
            return os.copy_file_range(source_fd, target.fd, size_bytes, source_bytes, target_bytes)

    def read_into(self, handle: FileHandle, buffer: memoryview, offset_bytes: int) -> int:
        """Fill a buffer from a file; return how many bytes there were."""
        return os.preadv(handle.fd, [buffer], offset_bytes)

    def write(self, handle: FileHandle, data: memoryview, offset_bytes: int) -> int:
        """Write data; return how many bytes there was room for."""
        with self._live.gate:
            self._before_change(handle, offset_bytes)
            written = os.pwrite(handle.fd, data, offset_bytes)
            while written < len(data):
                try:
                    written += os.pwrite(handle.fd, data[written:], offset_bytes + written)
                except OSError:
                    break  # the disk became full: as write(2) does, say how much there was room for
            return written

    def truncate(self, handle: FileHandle, size_bytes: int) -> None:
        """Set the size of an open file."""
        if size_bytes and handle.reader is not None:
            handle.reader.require_all()
        with self._live.gate:
            self._before_change(handle, size_bytes)
            # truncate(2) through /proc/PID/fd may come by a handle for reading
            where = handle.fd if handle.is_writable else descriptor_path(handle.fd)
            if size_bytes:
                os.truncate(where, size_bytes)
                return
            with self._live.hydrator.truncating(handle.inode.ino):
                os.truncate(where, size_bytes)

    def allocate(self, handle: FileHandle, mode: int, offset_bytes: int, size_bytes: int) -> None:
        """fallocate(2), in every mode that the backing filesystem has."""
        with self._live.gate:
            # plain allocation changes no byte below the captured size; the other modes do
            self._before_change(handle, offset_bytes if mode & ~_FALLOC_FL_KEEP_SIZE else 1 << 62)
            if _libc.fallocate(handle.fd, mode, offset_bytes, size_bytes) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def sync(self, handle: FileHandle, data_only: bool) -> None:
        """Write a file back to the local disk."""
        (os.fdatasync if data_only else os.fsync)(handle.fd)

    def attributes(self, handle: FileHandle) -> Attributes:
        """Return an open file's attributes, also when it has no name any more."""
        return self._live.looked_at(lambda: os.fstat(handle.fd), None if handle.inode.has_name else 0)

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

    def mappable_inodes(self) -> set[int]:
        """Return the inodes that a program may have mapped shared and writable."""
        with self._lock:
            return {inode.ino for inode in self._inodes.values() if inode.mappable and inode.has_name}

    def names_of(self, inodes: set[int]) -> list[tuple[bytes, int]]:
        """Return a name that each of some open inodes had lately."""
        with self._lock:
            return [(inode.path, inode.ino) for inode in self._inodes.values() if inode.ino in inodes]

    def _handle(self, fd: int, flags: int, path: bytes | None, reader: Reader | None = None) -> FileHandle:
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

    def _before_change(self, handle: FileHandle, offset_bytes: int) -> None:
        inode, live = handle.inode, self._live
        if inode.marked_epoch != live.changes.epoch and inode.has_name:
            live.changes.mark_content(inode.path, inode.ino)
            inode.marked_epoch = live.changes.epoch
        if live.guards.is_guarded(inode.ino):
            live.guards.protect(inode.ino, offset_bytes)

    def _replace_if_shared(self, path: bytes, ino: int) -> int | None:
        """Before a truncation to nothing: give the name a fresh inode where that spares copying what a pending version
        shares. Return a descriptor that holds the old one, None if the name still has it.
        """
        live = self._live
        if not live.guards.is_guarded(ino) or ino in self._inodes or live.links.count(ino) > 1:
            return None
        status, above = live.lstat(path), parent_of(path)
        above_status = live.lstat(above)
        fresh = b"fresh-%d-%d" % (ino, threading.get_ident())
        held_fd: int | None = None
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=live.spare_fd)
        try:
            os.chown(fd, status.st_uid, status.st_gid)
            for name, value in read_xattrs(live.root_fd, path):
                os.setxattr(fd, name, value)
            os.chmod(fd, status.st_mode & 0o7777)
            set_times(fd, None, status.st_atime_ns, NOW_NS)
            live.changes.mark_content(path, os.fstat(fd).st_ino)
            live.changes.times.keep(above_status)
            held_fd = os.open(live.at(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=live.root_fd)
            os.rename(fresh, live.at(path), src_dir_fd=live.spare_fd, dst_dir_fd=live.root_fd)
            live.changes.forget_inode(ino)
            live.hydrator.lost_name(ino)
        except OSError as error:
            _close(held_fd)
            os.unlink(fresh, dir_fd=live.spare_fd)
            if error.errno == errno.ENOSPC:
                raise
            return None  # copying does it as well
        finally:
            os.close(fd)
        # a truncation does not touch the directory's times
        times = (above_status.st_atime_ns, above_status.st_mtime_ns)
        os.utime(live.at(above), ns=times, dir_fd=live.root_fd)
        return held_fd


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _close_reader(reader: Reader | None) -> None:
    if reader is not None:
        reader.close()


def _kept_name(ino: int) -> bytes:
    return b"kept-%d" % ino


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
