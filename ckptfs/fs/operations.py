"""The filesystem: what every operation does, whatever transport it came through.

Each path belongs to one of three: the control names (control.py), `.versions/` (versions_directory.py), or the tree,
which is the live tree of a read-write mount or a version's tree of a read-only one. Here the paths are told apart; what
is done is in the modules of the three.

Paths are bytes, relative to the mount's root, without a leading slash. Every method may raise OSError with an errno,
and nothing else (door.py).
"""

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ckptfs.errors import CkptfsError, ReadOnlyError
from ckptfs.fs.attributes import Attributes, Caller, Listed, virtual_file
from ckptfs.fs.control import Control, below_versions, control_of, save_text, version_of_marker
from ckptfs.fs.door import through_door
from ckptfs.fs.fetching import Reader
from ckptfs.fs.live import LiveTree
from ckptfs.fs.marker import NOTE_LIMIT_BYTES, SaveMarker, Touch
from ckptfs.fs.open_files import FileHandle, OpenFiles
from ckptfs.fs.syscalls import groups_of, is_exclusive_create, process_of
from ckptfs.fs.times import NOW_NS, birth_ns
from ckptfs.fs.tree_view import TreeView, marker_inode, version_of
from ckptfs.fs.uploads import VersionState
from ckptfs.fs.versions_directory import VersionsDirectory

# Above what any local filesystem numbers its inodes, below the versions' (tree_view.py)
_CONTROL_INODE = (1 << 62) - 1024
# of a file in the spare directory whose text is becoming a note
_NOTE_PREFIX = "note-"


class Restorer(Protocol):
    """What `.restore` needs of the mount."""

    def check(self, spec: str) -> None:
        """Raise NoSuchVersionError or InvalidInputError if a version cannot be restored."""

    def restore(self, spec: str) -> None:
        """Make the live tree a version."""


@dataclass(slots=True, eq=False)
class ControlHandle:
    """An open control file."""

    control: Control
    text: bytes
    """What reading it gives: fixed when it was opened, so that one reader sees one state. Of a touch, from when it
    captured: its own version, whatever others have saved meanwhile."""
    touch: Touch | None = None
    """Of `.save` open for writing."""
    maker: int = 0
    """The thread whose open(2) with O_CREAT made it; 0 if it was there."""
    written: bytearray = field(default_factory=bytearray)
    """To `.restore`."""


@dataclass(slots=True, eq=False)
class ViewHandle:
    """An open file of a version."""

    fd: int
    attributes: Attributes
    reader: Reader | None = None
    """Of a file that was not whole when it was opened."""


Handle = FileHandle | ControlHandle | ViewHandle


@dataclass(slots=True, kw_only=True)
class Writable:
    """What a read-write mount has and a read-only one has not."""

    live: LiveTree
    open_files: OpenFiles
    marker: SaveMarker
    restorer: Restorer
    check_save_allowed: Callable[[], None]
    version: Callable[[], int]
    """Returns the number of the newest captured version."""


@dataclass(slots=True, kw_only=True)
class Operations:
    """The operations of one mount.

    Args:
        writable: None for a read-only mount, which shows `view()`.
        texts: What reading `.save`, `.status` and `.restore` gives.
    """

    versions: VersionsDirectory
    texts: dict[Control, Callable[[], bytes]]
    writable: Writable | None = None
    view: Callable[[], TreeView] | None = None
    cache_root_status: Callable[[], os.statvfs_result]
    _makers: set[int] = field(default_factory=set, init=False)
    """Threads that made `.save` and have not closed it."""

    # attributes and names

    @through_door
    def attributes(
        self, path: bytes, caller: Caller, handle: Handle | None = None, *, is_known: bool = False
    ) -> Attributes:
        """Return a path's attributes; of an open file also when it has no name any more.

        Args:
            is_known: The kernel has looked the path up before: this is no look-up, which an exclusive create must lose.
        """
        if isinstance(handle, FileHandle):
            return self._writable().open_files.attributes(handle)
        if isinstance(handle, ViewHandle):
            return handle.attributes
        below = below_versions(path)
        if below is not None:
            number = version_of_marker(path)
            return self.versions.attributes(below) if number is None else self._marker_attributes(number)
        control = control_of(path)
        if control is None:
            return self._tree().attributes(path)
        if control is Control.SAVE and handle is None and not is_known and self._is_lookup_to_create(caller):
            raise _error(errno.ENOENT)
        return self._control_attributes(path, control)

    @through_door
    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        below = below_versions(path)
        if below is not None:
            return self.versions.readlink(below)
        self._refuse_control(path, errno.EINVAL)
        return self._tree().readlink(path)

    @through_door
    def listing(self, path: bytes) -> list[Listed]:
        """Return what is in a directory, without the reserved names."""
        below = below_versions(path)
        if below is not None:
            return self.versions.listing(below)
        self._refuse_control(path, errno.ENOTDIR)
        return self._tree().listing(path)

    @through_door
    def statfs(self) -> os.statvfs_result:
        """Return the room of the filesystem that holds the cache."""
        return self.cache_root_status()

    @through_door
    def getxattr(self, path: bytes, name: bytes, handle: FileHandle | None = None) -> bytes:
        """Return an extended attribute; with a handle, of a file that has no name any more."""
        if name == b"security.capability":
            # asked before every write, to drop it; no file here has any (setxattr refuses)
            raise _error(errno.ENODATA)
        if handle is not None:
            return os.getxattr(handle.fd, name)
        below = below_versions(path)
        if below is None and control_of(path) is None and self.writable is not None:
            return self.writable.live.getxattr(path, name)
        try:
            return self._fixed_xattrs(path, below)[name]
        except KeyError:
            raise _error(errno.ENODATA) from None

    @through_door
    def listxattr(self, path: bytes, handle: FileHandle | None = None) -> list[bytes]:
        """Return the names of all extended attributes."""
        if handle is not None:
            return [os.fsencode(name) for name in os.listxattr(handle.fd)]
        below = below_versions(path)
        if below is None and control_of(path) is None and self.writable is not None:
            return self.writable.live.listxattr(path)
        return list(self._fixed_xattrs(path, below))

    @through_door
    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int, handle: FileHandle | None = None) -> None:
        """Set an extended attribute."""
        if name.startswith(b"security."):
            raise _error(errno.EOPNOTSUPP)
        if handle is not None:
            os.setxattr(handle.fd, name, value, flags)
            return
        self._changeable(path, errno.EOPNOTSUPP).setxattr(path, name, value, flags)

    @through_door
    def removexattr(self, path: bytes, name: bytes, handle: FileHandle | None = None) -> None:
        """Remove an extended attribute."""
        if handle is not None:
            os.removexattr(handle.fd, name)
            return
        self._changeable(path, errno.ENODATA).removexattr(path, name)

    @through_door
    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits; on a control file it does nothing."""
        if control_of(path) is None:
            self._changeable(path).chmod(path, mode)

    @through_door
    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set owner and group; on a control file it does nothing."""
        if control_of(path) is None:
            self._changeable(path).chown(path, uid, gid)

    @through_door
    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None, caller: Caller) -> None:
        """Set times: None for one that stays, NOW_NS for now. On `.save` it is a touch."""
        control = control_of(path)
        if control is Control.SAVE:
            writable = self._writable()
            writable.check_save_allowed()
            writable.marker.set_times(process_of(caller.pid), time.time_ns() if mtime_ns == NOW_NS else mtime_ns)
        elif control is None:
            self._changeable(path).utimens(path, atime_ns, mtime_ns)

    # names that come, go or change

    @through_door
    def mkdir(self, path: bytes, mode: int, caller: Caller) -> None:
        """Make a directory."""
        self._changeable(path, errno.EEXIST).mkdir(path, mode, caller)

    @through_door
    def mknod(self, path: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a file, fifo, socket or device."""
        self._changeable(path, errno.EEXIST).mknod(path, mode, device, caller)

    @through_door
    def symlink(self, path: bytes, target: bytes, caller: Caller) -> None:
        """Make a symlink."""
        self._changeable(path, errno.EEXIST).symlink(path, target, caller)

    @through_door
    def link(self, source: bytes, path: bytes) -> None:
        """Give an inode a further name."""
        self._changeable(source, errno.EPERM)
        self._changeable(path, errno.EEXIST).link(source, path)

    @through_door
    def unlink(self, path: bytes) -> None:
        """Remove a name; removing `.save` succeeds and does nothing."""
        if control_of(path) is not Control.SAVE:
            self._changeable(path, errno.EPERM).unlink(path)

    @through_door
    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._changeable(path, errno.EPERM).rmdir(path)

    @through_door
    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, with the flags of renameat2(2); a file renamed to `.save` is a touch, its text the note."""
        live = self._changeable(old, errno.EPERM)
        if control_of(new) is Control.SAVE:
            self._touch_by_rename(live, old)
        else:
            self._changeable(new, errno.EPERM).rename(old, new, flags)

    @through_door
    def truncate(self, path: bytes, size_bytes: int, handle: Handle | None = None) -> None:
        """Set a file's size."""
        control = control_of(path)
        if isinstance(handle, FileHandle):
            self._writable().open_files.truncate(handle, size_bytes)
        elif isinstance(handle, ControlHandle):
            self._truncate_control(handle, size_bytes)
        elif control is Control.SAVE:
            writable = self._writable()
            writable.check_save_allowed()
            writable.marker.put(b"")
        elif control is None:
            self._changeable(path).truncate(path, size_bytes)

    # open files

    @through_door
    def create(self, path: bytes, flags: int, mode: int, caller: Caller) -> Handle:
        """Make and open a file."""
        if control_of(path) is Control.SAVE:
            handle = self._open_control(path, Control.SAVE, flags, caller)
            handle.maker = caller.pid
            self._makers.add(caller.pid)
            return handle
        self._changeable(path, errno.EEXIST)
        return self._writable().open_files.create(path, flags, mode, caller)

    @through_door
    def open(self, path: bytes, flags: int, caller: Caller) -> Handle:
        """Open a file."""
        below = below_versions(path)
        if below is not None:
            number = version_of_marker(path)
            if number is None:
                return ViewHandle(*self.versions.open(below, flags))
            if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
                raise _error(errno.EROFS)
            return ControlHandle(Control.SAVE, self._text_of_version(number))
        control = control_of(path)
        if control is not None:
            return self._open_control(path, control, flags, caller)
        if self.writable is not None:
            return self.writable.open_files.open(path, flags)
        return ViewHandle(*self._view().open(path, flags))

    @through_door
    def read_into(self, handle: Handle, buffer: memoryview, offset_bytes: int) -> int:
        """Fill a buffer from an open file; return how many bytes there were."""
        if isinstance(handle, ControlHandle):
            piece = handle.text[offset_bytes : offset_bytes + len(buffer)]
            buffer[: len(piece)] = piece
            return len(piece)
        if handle.reader is not None:
            handle.reader.require(offset_bytes, offset_bytes + len(buffer))
        return os.preadv(handle.fd, [buffer], offset_bytes)

    @through_door
    def write(self, handle: Handle, data: memoryview, offset_bytes: int) -> int:
        """Write to an open file."""
        if isinstance(handle, FileHandle):
            return self._writable().open_files.write(handle, data, offset_bytes)
        if isinstance(handle, ViewHandle):
            raise _error(errno.EBADF)
        if handle.touch is not None:
            return self._writable().marker.write(handle.touch, data, offset_bytes)
        if offset_bytes + len(data) > NOTE_LIMIT_BYTES:
            raise _error(errno.EFBIG)
        handle.written[offset_bytes : offset_bytes + len(data)] = data
        # a shell does not look at what closing said, so a version that is not there is refused here
        self._writable().restorer.check(_spec(handle))
        return len(data)

    @through_door
    def allocate(self, handle: Handle, mode: int, offset_bytes: int, size_bytes: int) -> None:
        """fallocate(2)."""
        if not isinstance(handle, FileHandle):
            raise _error(errno.EOPNOTSUPP)
        self._writable().open_files.allocate(handle, mode, offset_bytes, size_bytes)

    @through_door
    def flush(self, handle: Handle) -> None:
        """A descriptor is being closed: this is what makes close(2) of `.save` capture."""
        if not isinstance(handle, ControlHandle):
            return
        self._makers.discard(handle.maker)
        if handle.touch is not None:
            self._writable().marker.flush(handle.touch)
            _show_saved(handle, handle.touch, "captured")
        elif handle.written:
            spec = _spec(handle)
            handle.written.clear()
            self._writable().restorer.restore(spec)

    @through_door
    def release(self, handle: Handle) -> None:
        """The last descriptor of a handle is closed."""
        if isinstance(handle, FileHandle):
            self._writable().open_files.close(handle)
        elif isinstance(handle, ViewHandle):
            if handle.reader is not None:
                handle.reader.close()
            os.close(handle.fd)
        elif handle.touch is not None:
            self._writable().marker.release(handle.touch)

    @through_door
    def fsync(self, handle: Handle, data_only: bool) -> None:
        """Write back to the local disk; on `.save`, wait until all captured versions are durable."""
        if isinstance(handle, FileHandle):
            self._writable().open_files.sync(handle, data_only)
        elif isinstance(handle, ControlHandle) and handle.control is Control.SAVE and self.writable is not None:
            self.writable.marker.sync(handle.touch)
            if handle.touch is not None:
                _show_saved(handle, handle.touch, "durable")

    # what only a transport that knows inodes and handles can ask for

    @through_door
    def going_past(self, handle: FileHandle) -> None:
        """The kernel will read and write this handle's file itself."""
        self._writable().open_files.going_past(handle)

    @through_door
    def create_nameless(self, directory: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Make and open a file without a name (O_TMPFILE)."""
        self._changeable(directory)
        return self._writable().open_files.create_nameless(directory, flags, mode, caller)

    @through_door
    def reopen(self, handle: FileHandle, flags: int) -> FileHandle:
        """Open an open file that has no name once more."""
        return self._writable().open_files.reopen(handle, flags)

    @through_door
    def link_nameless(self, handle: FileHandle, path: bytes) -> None:
        """Give an open file that has no name one."""
        self._changeable(path, errno.EEXIST)
        self._writable().open_files.link_nameless(handle, path)

    @through_door
    def change_nameless(
        self,
        handle: Handle | None,
        mode: int | None,
        owner: tuple[int, int],
        times: tuple[int | None, int | None] | None,
    ) -> None:
        """Set attributes of an open file that has no name."""
        if isinstance(handle, FileHandle):
            self._writable().open_files.change_nameless(handle, mode, owner, times)

    @through_door
    def birth_ns(self, path: bytes) -> int | None:
        """Return when a file was made, None where that is not known."""
        if self.writable is None or control_of(path) is not None or below_versions(path) is not None:
            return None
        live = self.writable.live
        return birth_ns(live.root_fd, live.at(path))

    @through_door
    def drop_privileges(self, path: bytes, caller: Caller) -> None:
        """Take setuid and setgid from a file, as writing to it must."""
        if control_of(path) is None and below_versions(path) is None:
            live = self._writable().live
            status = live.lstat(path)
            left = _left_mode(status, caller)
            if left != stat.S_IMODE(status.st_mode):
                live.chmod(path, left)

    @through_door
    def chown_to_nobody(self, path: bytes, caller: Caller) -> None:
        """chown(2) that leaves owner and group: anybody may, but only the owner takes setuid and setgid away by it."""
        if control_of(path) is None:
            live = self._changeable(path)
            status = live.lstat(path)
            if caller.uid not in (0, status.st_uid) and _left_mode(status, caller) != stat.S_IMODE(status.st_mode):
                raise _error(errno.EPERM)
            self.drop_privileges(path, caller)
            live.chown(path, -1, -1)

    @through_door
    def seek(self, handle: Handle, offset_bytes: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE."""
        if isinstance(handle, ControlHandle):
            raise _error(errno.EINVAL)
        filling = handle.reader.filling if handle.reader is not None else None
        if filling is None or filling.is_filled or filling.is_closed:
            return os.lseek(handle.fd, offset_bytes, whence)
        found = filling.seek(offset_bytes, whence)
        if found is None:
            raise _error(errno.ENXIO)
        return found

    @through_door
    def copy_range(self, source: Handle, target: Handle, source_bytes: int, target_bytes: int, size_bytes: int) -> int:
        """copy_file_range(2) between two open files; return how much was copied."""
        if isinstance(source, ControlHandle) or not isinstance(target, FileHandle):
            raise _error(errno.EOPNOTSUPP)
        if source.reader is not None:
            source.reader.require(source_bytes, source_bytes + size_bytes)
        return self._writable().open_files.copy_range(source.fd, target, source_bytes, target_bytes, size_bytes)

    # what only a server that takes over from another can ask for

    def newest_version(self) -> int:
        """Return the number of the newest captured version."""
        return self.writable.version() if self.writable is not None else 0

    @through_door
    def go_on_file(self, path: bytes | None, ino: int, flags: int) -> FileHandle:
        """Return a handle for an open file that the kernel has; path is None when it has lost its name."""
        return self._writable().open_files.go_on(path, ino, flags)

    @through_door
    def go_on_view(self, path: bytes | None, ino: int, flags: int) -> ViewHandle:
        """Return a handle for an open file of a version, which its path need not lead to any more."""
        below = below_versions(path) if path is not None else None
        tree = self.versions if below is not None or self.view is None else self._view()
        where = path if below is None else below
        try:
            if where is not None and tree.attributes(where).ino == ino:
                return ViewHandle(*tree.open(where, flags))
        except FileNotFoundError:
            pass
        older = self.versions.view(version_of(ino))
        found = older.path_of(ino)
        if found is None:
            raise _error(errno.ESTALE)
        return ViewHandle(*older.open(found, flags))

    def go_on_mapped(self, ino: int, path: bytes) -> bool:
        """A file may be changed through a mapping; return False if there is no such file any more."""
        return self.writable is not None and self.writable.open_files.go_on_mapped(ino, path)

    @through_door
    def go_on_control(
        self, path: bytes, flags: int, shown: bytes, text: bytes, *, process: int, began_ns: int, captured: bytes | None
    ) -> ControlHandle:
        """Return a handle for an open control file.

        Args:
            shown: What reading it gives.
            text: What has been written to it.
            process, began_ns, captured: Of `.save`, see marker.Touch.
        """
        control = Control.SAVE if version_of_marker(path) is not None else control_of(path)
        if control is None:
            raise _error(errno.ENOENT)
        handle = ControlHandle(control, shown)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return handle
        if control is Control.SAVE:
            touch = Touch(process, bool(flags & os.O_APPEND), began_ns, bytearray(text), captured_text=captured)
            handle.touch = self._writable().marker.go_on(touch)
        else:
            handle.written[:] = text
        return handle

    @through_door
    def finish_touch_by_rename(self) -> None:
        """Go on with a file that was being renamed to `.save`."""
        writable = self._writable()
        for name in os.listdir(writable.live.spare_fd):
            if name.startswith(_NOTE_PREFIX):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=writable.live.spare_fd)
                try:
                    text = os.pread(fd, NOTE_LIMIT_BYTES, 0)
                finally:
                    os.close(fd)
                writable.marker.put(text)
                os.unlink(name, dir_fd=writable.live.spare_fd)

    # telling paths apart

    def _tree(self) -> LiveTree | TreeView:
        return self.writable.live if self.writable is not None else self._view()

    def _view(self) -> TreeView:
        if self.view is None:
            raise CkptfsError("a mount has neither a live tree nor a version to show")
        return self.view()

    def _writable(self) -> Writable:
        if self.writable is None:
            raise ReadOnlyError("the mount is read-only")
        return self.writable

    def _changeable(self, path: bytes, control_errno: int = errno.EPERM) -> LiveTree:
        """Return the live tree if a path may be changed there; a reserved name gives the errno."""
        if below_versions(path) is not None and path != Control.VERSIONS.value:
            raise _error(errno.EROFS)
        self._refuse_control(path, control_errno)
        return self._writable().live

    def _refuse_control(self, path: bytes, number: int) -> None:
        if control_of(path) is not None:
            raise _error(number)

    def _fixed_xattrs(self, path: bytes, below: bytes | None) -> dict[bytes, bytes]:
        if below is not None:
            return self.versions.xattrs(below)
        return {} if control_of(path) is not None else self._view().xattrs(path)

    # control files

    def _control_attributes(self, path: bytes, control: Control) -> Attributes:
        directory = path.rpartition(b"/")[0]
        owner = self._tree().attributes(directory)
        if not stat.S_ISDIR(owner.mode):
            raise _error(errno.ENOTDIR)
        # who may make files in the directory may save, and who may list it may know what was
        mode = owner.mode & (0o444 if control is Control.STATUS else 0o666)
        # room for what reading gives: some programs read no further than the size
        size_bytes = len(self.texts[control]()) if control in self.texts else 0
        return virtual_file(_CONTROL_INODE + list(Control).index(control), mode, owner, size_bytes)

    def _marker_attributes(self, number: int) -> Attributes:
        owner = self.versions.attributes(b"%d" % number)
        return virtual_file(marker_inode(number), owner.mode & 0o444, owner, len(self._text_of_version(number)))

    def _text_of_version(self, number: int) -> bytes:
        return save_text(VersionState.of_record(self.versions.record(number)))

    def _open_control(self, path: bytes, control: Control, flags: int, caller: Caller) -> ControlHandle:
        self._control_attributes(path, control)  # the directory must be there
        handle = ControlHandle(control, self.texts[control]())
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return handle
        writable = self._writable()
        if control is Control.STATUS:
            raise _error(errno.EACCES)
        if control is Control.SAVE:
            # said at open, for `: > .save` in a shell does not look at what closing said
            writable.check_save_allowed()
            handle.touch = writable.marker.begin(process_of(caller.pid), appends=bool(flags & os.O_APPEND))
        return handle

    def _is_lookup_to_create(self, caller: Caller) -> bool:
        """True if `.save` must not be found: it is looked up by an open(2) that is to make it.

        When it has made it, the kernel may ask for its attributes within the same call; the maker is shown them.
        """
        return caller.pid not in self._makers and is_exclusive_create(caller.pid)

    def _truncate_control(self, handle: ControlHandle, size_bytes: int) -> None:
        if handle.touch is not None:
            self._writable().marker.truncate(handle.touch, size_bytes)
        else:
            del handle.written[size_bytes:]

    def _touch_by_rename(self, live: LiveTree, old: bytes) -> None:
        """Take a file away and make its text the note of a touch; a capture that fails puts it back."""
        writable = self._writable()
        writable.check_save_allowed()
        status = live.lstat(old)
        if not stat.S_ISREG(status.st_mode):
            raise _error(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL)
        if status.st_size > NOTE_LIMIT_BYTES:
            raise _error(errno.EFBIG)
        spare = os.fsencode(_NOTE_PREFIX + secrets.token_hex(8))
        # open until it has moved, so that it stays whole
        handle = writable.open_files.open(old, os.O_RDONLY)
        try:
            if handle.reader is not None:
                handle.reader.require_all()
            text = os.pread(handle.fd, NOTE_LIMIT_BYTES, 0)
            live.move_out(old, spare, keep_name=False)
        finally:
            writable.open_files.close(handle)
        try:
            writable.marker.put(text)
        except BaseException:
            live.move_in(spare, old)
            raise
        os.unlink(spare, dir_fd=live.spare_fd)


def _show_saved(handle: ControlHandle, touch: Touch, state: str) -> None:
    """Have reading the handle of a touch give the version that the touch made, if it has made one."""
    if touch.saved is not None:
        handle.text = save_text(VersionState.of_header(touch.saved.pending.header, state))


def _spec(handle: ControlHandle) -> str:
    return bytes(handle.written).decode("utf-8", "replace").strip().strip("\0").strip()


def _left_mode(status: os.stat_result, caller: Caller) -> int:
    """Return the permission bits that a file keeps when someone without CAP_FSETID changes it."""
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
        return mode
    left = mode & ~stat.S_ISUID
    # setgid without group execution means mandatory locking, and stays for who is in the group
    in_group = caller.uid == 0 or caller.gid == status.st_gid or status.st_gid in groups_of(caller.pid)
    return left if in_group and not mode & stat.S_IXGRP else left & ~stat.S_ISGID


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
