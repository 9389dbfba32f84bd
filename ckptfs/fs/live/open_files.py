"""Open files of the live tree: opening and closing, writing, and what a write must do first.

A writable handle marks its inode once per capture epoch and gives pending versions their own copy when it writes below
what they captured; after that a write costs one pwrite.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptfs.capture.reach import Reachable
from ckptfs.capture.scan import descriptor_path
from ckptfs.errors import CkptfsError, os_error
from ckptfs.fs.attributes import Attributes, Caller
from ckptfs.fs.handles import FileHandle, backing_flags
from ckptfs.fs.hydration.fetching import Reader
from ckptfs.fs.live.fresh_inode import give_fresh_inode
from ckptfs.fs.live.nameless_files import NamelessFiles
from ckptfs.fs.live.names import LiveNames, parent_of
from ckptfs.fs.live.open_inodes import OpenInodes
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.live.unseen import UnseenChanges
from ckptfs.libc import FALLOC_FL_KEEP_SIZE, fallocate

# a name may have become a fifo's meanwhile, whose other end nobody would ever open
_FOUND_BY_NAME = os.O_NOFOLLOW | os.O_NONBLOCK


class OpenFiles:
    """All open files of a live tree.

    Args:
        keeps_nameless: Somebody may take over: an open file that loses its last name keeps one in the spare directory.
        on_read: Told of the path of each file that is opened for reading.
    """

    def __init__(
        self,
        live: LiveTree,
        names: LiveNames,
        *,
        keeps_nameless: bool = False,
        on_read: Callable[[bytes], None] = lambda path: None,
    ) -> None:
        self._live = live
        self._names = names
        self.on_read = on_read
        self.inodes = OpenInodes(live, names, keeps_nameless=keeps_nameless)
        self.unseen = UnseenChanges(live, self.inodes)
        self.nameless = NamelessFiles(live, self.inodes)
        self._turns = threading.Lock()
        self._truncated = 0
        """The inode that whoever has the turn is opening."""

    # opening and closing

    def create(self, path: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Open a file that was not there a moment ago, making it."""
        live = self._live
        with live.gate:
            live.changes.mark_name(path)
            live.changes.mark_attributes(parent_of(path))
            kept = backing_flags(flags) | os.O_NOFOLLOW
            try:
                fd = os.open(live.at(path), kept | os.O_CREAT | os.O_EXCL, mode, dir_fd=live.root_fd)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            else:
                live.changes.mark_content(path, os.fstat(fd).st_ino)
                self._names.give_to(path, mode, caller)
                return self.inodes.take(fd, flags, path)
        return self.open(path, flags)

    def open(self, path: bytes, flags: int, era: int | None = None, known_ino: int | None = None) -> FileHandle:
        """Open a file; one that is to be changed and is not whole gets its data first.

        Args:
            era: See LiveTree.require_era.
            known_ino: What the path is thought to lead to: nothing else is truncated (ESTALE).
        """
        live = self._live
        truncates = bool(flags & os.O_TRUNC)
        needs_data = not truncates and flags & os.O_ACCMODE != os.O_RDONLY
        while True:
            ino = live.lstat(path).st_ino
            if needs_data:
                live.hydrator.ensure(ino, path)
            with live.gate:
                live.require_era(era)
                if not live.is_still(path, ino, with_data=needs_data):
                    continue
                if truncates and known_ino not in (None, ino):
                    raise os_error(errno.ESTALE)
                with self._turn(ino, truncates=truncates):
                    is_alone = truncates and self.inodes.find(ino) is None
                    replaced_fd = give_fresh_inode(live, path, ino) if is_alone else None
                    try:
                        now = live.lstat(path).st_ino if replaced_fd is not None else ino
                        handle = self._open_now(path, now, flags)
                    except BaseException:
                        _close(replaced_fd)
                        raise
                if handle is None:
                    _close(replaced_fd)
                    continue
                handle.replaced_fd = replaced_fd
                if truncates and replaced_fd is None:
                    try:
                        with live.truncating(path, handle.ino, 0):
                            os.truncate(_to_truncate(handle), 0)
                    except BaseException:
                        self.close(handle)
                        raise
                elif flags & os.O_ACCMODE != os.O_WRONLY:
                    self.on_read(path)
                return handle

    @contextmanager
    def _turn(self, ino: int, *, truncates: bool) -> Iterator[None]:
        """Let nobody open the inode of a name that is being given a fresh one: two programs would have two files open.

        An inode that is not guarded now will not be before the gate has been closed, so it is given no fresh one then.
        """
        if not truncates and ino != self._truncated and not self._live.guards.is_guarded(ino):
            yield
            return
        with self._turns:
            self._truncated = ino
            try:
                yield
            finally:
                self._truncated = 0

    def _open_now(self, path: bytes, ino: int, flags: int) -> FileHandle | None:
        """Open a file inside the gate; return None if a path is not an inode's any more."""
        live, kept = self._live, backing_flags(flags) | _FOUND_BY_NAME
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
        return self.inodes.take(fd, flags, path, reader)

    def open_hidden(self, name: bytes, flags: int) -> FileHandle:
        """Open a file in the spare directory once more, through /proc/PID/fd."""
        live = self._live
        kept = backing_flags(flags) | os.O_NOFOLLOW
        fd = os.open(name, kept, dir_fd=live.spare_fd)
        return self._opened_again(fd, flags)

    def _opened_again(self, fd: int, flags: int) -> FileHandle:
        """Make a handle of a file without a name that is open already. Not to be called inside the gate."""
        live, ino = self._live, os.fstat(fd).st_ino
        try:
            if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_TRUNC:
                live.hydrator.ensure(ino, b"")
            with live.gate:
                handle = self.inodes.take(fd, flags, None, live.hydrator.reader(b"", ino))
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
        try:
            fd = os.open(descriptor_path(handle.fd), backing_flags(flags))
        except FileNotFoundError as error:
            raise os_error(errno.ESTALE) from error
        if os.fstat(fd).st_ino != handle.ino:
            # the handle was closed meanwhile, and its descriptor is another file's
            os.close(fd)
            raise os_error(errno.ESTALE)
        return self._opened_again(fd, flags)

    def close(self, handle: FileHandle) -> None:
        """Close a handle."""
        if handle.unseen and handle.is_writable:
            # at once: a capture in between would neither look at the file nor find it marked
            with self._live.gate:
                self.unseen.closing(handle)
                self.inodes.drop(handle)
        else:
            self.inodes.drop(handle)
        _close_reader(handle.reader)
        os.close(handle.fd)
        _close(handle.replaced_fd)

    def go_on(self, path: bytes | None, ino: int, flags: int) -> FileHandle:
        """Open a file that a program has had open since before this process began. Raises OSError."""
        live = self._live
        kept = backing_flags(flags) & ~os.O_TMPFILE | _FOUND_BY_NAME
        with live.gate:
            if path is not None:
                fd = os.open(live.at(path), kept, dir_fd=live.root_fd)
                if os.fstat(fd).st_ino == ino:
                    is_kept = self.inodes.is_kept(ino)
                    if is_kept:
                        live.hydrator.go_on_named(ino)
                    handle = self.inodes.take(fd, flags, path, live.hydrator.reader(path, ino))
                    handle.inode.is_kept = is_kept
                    return handle
                os.close(fd)
            fd = self.inodes.open_kept(ino, kept)
            try:
                # one that the kernel does not know; else the kept one is its only link
                name = live.name_of(ino) if os.fstat(fd).st_nlink > 1 else None
                if name is not None:
                    live.hydrator.go_on_named(ino)
                reader = live.hydrator.reader(name, ino) if name else live.hydrator.go_on_nameless(ino, fd)
            except BaseException:
                os.close(fd)
                raise
            handle = self.inodes.take(fd, flags, name, reader)
            handle.inode.has_name, handle.inode.is_kept = name is not None, True
            return handle

    # reading and writing

    def write(self, handle: FileHandle, data: memoryview, offset_bytes: int, *, appends: bool = False) -> int:
        """Write data; return how many bytes there was room for.

        Args:
            appends: At the end of the file, which may be elsewhere than the one who gave the offset knows.
        """
        how = os.RWF_APPEND if appends else 0
        with self._live.gate:
            self._before_change(handle, offset_bytes)
            written = os.pwritev(handle.fd, [data], offset_bytes, how)
            while written < len(data):
                try:
                    written += os.pwritev(handle.fd, [data[written:]], offset_bytes + written, how)
                except OSError:
                    break  # the disk became full: as write(2) does, say how much there was room for
            return written

    def truncate(self, handle: FileHandle, size_bytes: int) -> None:
        """Set the size of an open file."""
        if size_bytes and handle.reader is not None:
            handle.reader.require_all()
        with self._live.gate:
            self._before_change(handle, size_bytes)
            where = _to_truncate(handle)
            if size_bytes:
                os.truncate(where, size_bytes)
                return
            with self._live.hydrator.truncating(handle.ino):
                os.truncate(where, size_bytes)

    def allocate(self, handle: FileHandle, mode: int, offset_bytes: int, size_bytes: int) -> None:
        """fallocate(2), in every mode that the backing filesystem has."""
        with self._live.gate:
            # plain allocation changes no byte below the captured size; the other modes do
            self._before_change(handle, offset_bytes if mode & ~FALLOC_FL_KEEP_SIZE else 1 << 62)
            fallocate(handle.fd, mode, offset_bytes, size_bytes)

    def copy_range(
        self, source_fd: int, target: FileHandle, source_bytes: int, target_bytes: int, size_bytes: int
    ) -> int:
        """Copy bytes from any file to an open one; return how many."""
        with self._live.gate:
            self._before_change(target, target_bytes)
            return os.copy_file_range(source_fd, target.fd, size_bytes, source_bytes, target_bytes)

    def sync(self, handle: FileHandle, data_only: bool) -> None:
        """Write a file back to the local disk."""
        (os.fdatasync if data_only else os.fsync)(handle.fd)

    def attributes(self, handle: FileHandle) -> Attributes:
        """Return an open file's attributes, also when it has no name any more."""
        return self._live.looked_at(lambda: os.fstat(handle.fd), None if handle.inode.has_name else 0)

    def _before_change(self, handle: FileHandle, offset_bytes: int) -> None:
        inode, live = handle.inode, self._live
        if inode.marked_epoch != live.changes.epoch and inode.has_name:
            live.changes.mark_content(inode.path, inode.ino)
            inode.marked_epoch = live.changes.epoch
        if live.guards.is_guarded(inode.ino):
            live.guards.protect(inode.ino, offset_bytes)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _to_truncate(handle: FileHandle) -> int | Reachable:
    """Return what truncates an open file, which may be open for reading: O_TRUNC, truncate(2) through /proc/PID/fd."""
    # by the descriptor if it may: on XFS truncate(2) of an empty file leaves its times, and ftruncate(2) sets them
    return handle.fd if handle.is_writable else descriptor_path(handle.fd)


def _close_reader(reader: Reader | None) -> None:
    if reader is not None:
        reader.close()
