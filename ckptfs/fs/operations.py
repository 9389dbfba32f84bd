"""The filesystem: what every operation does, whatever transport it came through.

Each path belongs to one of three: a control name (control_files.py), `.versions/` (versions_directory.py), or the tree,
which is the live tree of a read-write mount or a version's tree of a read-only one. Here the paths are told apart; what
is done is in the modules of the three.

Paths are bytes, relative to the mount's root, without a leading slash. Every method may raise OSError with an errno,
and nothing else (door.py).
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from ckptfs.errors import CkptfsError, ReadOnlyError, os_error
from ckptfs.fs.attributes import Attributes, Caller, Listed
from ckptfs.fs.control import Control, below_versions, control_of, version_of_marker
from ckptfs.fs.control_files import ControlFiles
from ckptfs.fs.door import through_door
from ckptfs.fs.handles import ControlHandle, FileHandle, Handle, OpenFile, ViewHandle
from ckptfs.fs.live import LiveTree
from ckptfs.fs.live_names import LiveNames
from ckptfs.fs.marker import Touch
from ckptfs.fs.syscalls import groups_of
from ckptfs.fs.times import birth_ns
from ckptfs.fs.tree_view import TreeView, version_of
from ckptfs.fs.versions_directory import VersionsDirectory
from ckptfs.fs.writable import Writable


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
    _controls: ControlFiles = field(init=False)

    def __post_init__(self) -> None:
        self._controls = ControlFiles(texts=self.texts, versions=self.versions, writable=self.writable, tree=self._tree)

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
            return self.versions.attributes(below) if number is None else self._controls.attributes_of_version(number)
        control = control_of(path)
        if control is None:
            return self._tree().attributes(path)
        if control is Control.SAVE and handle is None and not is_known:
            self._controls.refuse_lookup_to_create(caller)
        return self._controls.attributes(path, control)

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
    def getxattr(self, path: bytes, name: bytes, handle: OpenFile | None = None) -> bytes:
        """Return an extended attribute; with a handle, of a file that has no name any more."""
        if name == b"security.capability":
            # asked before every write, to drop it; no file here has any (setxattr refuses)
            raise os_error(errno.ENODATA)
        if isinstance(handle, FileHandle):
            return os.getxattr(handle.fd, name)
        below = below_versions(path)
        if handle is None and below is None and control_of(path) is None and self.writable is not None:
            return self.writable.live.getxattr(path, name)
        try:
            return (self._fixed_xattrs(path, below) if handle is None else handle.xattrs)[name]
        except KeyError:
            raise os_error(errno.ENODATA) from None

    @through_door
    def listxattr(self, path: bytes, handle: OpenFile | None = None) -> list[bytes]:
        """Return the names of all extended attributes."""
        if isinstance(handle, FileHandle):
            return [os.fsencode(name) for name in os.listxattr(handle.fd)]
        if handle is not None:
            return list(handle.xattrs)
        below = below_versions(path)
        if below is None and control_of(path) is None and self.writable is not None:
            return self.writable.live.listxattr(path)
        return list(self._fixed_xattrs(path, below))

    @through_door
    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int, handle: OpenFile | None = None) -> None:
        """Set an extended attribute."""
        if name.startswith(b"security."):
            raise os_error(errno.EOPNOTSUPP)
        if handle is not None:
            os.setxattr(_of_live_tree(handle).fd, name, value, flags)
            return
        self._changeable(path, errno.EOPNOTSUPP).setxattr(path, name, value, flags)

    @through_door
    def removexattr(self, path: bytes, name: bytes, handle: OpenFile | None = None) -> None:
        """Remove an extended attribute."""
        if handle is not None:
            os.removexattr(_of_live_tree(handle).fd, name)
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
            self._controls.set_times(caller, mtime_ns)
        elif control is None:
            self._changeable(path).utimens(path, atime_ns, mtime_ns)

    # names that come, go or change

    @through_door
    def mkdir(self, path: bytes, mode: int, caller: Caller) -> None:
        """Make a directory."""
        self._nameable(path, errno.EEXIST).mkdir(path, mode, caller)

    @through_door
    def mknod(self, path: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a file, fifo, socket or device."""
        self._nameable(path, errno.EEXIST).mknod(path, mode, device, caller)

    @through_door
    def symlink(self, path: bytes, target: bytes, caller: Caller) -> None:
        """Make a symlink."""
        self._nameable(path, errno.EEXIST).symlink(path, target, caller)

    @through_door
    def link(self, source: bytes, path: bytes) -> None:
        """Give an inode a further name."""
        self._changeable(source, errno.EPERM)
        self._nameable(path, errno.EEXIST).link(source, path)

    @through_door
    def unlink(self, path: bytes) -> None:
        """Remove a name; removing `.save` succeeds and does nothing."""
        if control_of(path) is not Control.SAVE:
            self._nameable(path, errno.EPERM).unlink(path)

    @through_door
    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._nameable(path, errno.EPERM).rmdir(path)

    @through_door
    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, with the flags of renameat2(2); a file renamed to `.save` is a touch, its text the note."""
        live = self._changeable(old, errno.EPERM)
        if control_of(new) is Control.SAVE:
            self._controls.touch_by_rename(live, old)
        else:
            self._nameable(new, errno.EPERM).rename(old, new, flags)

    @through_door
    def truncate(self, path: bytes, size_bytes: int, handle: Handle | None = None) -> None:
        """Set a file's size."""
        control = control_of(path)
        if isinstance(handle, FileHandle):
            self._writable().open_files.truncate(handle, size_bytes)
        elif isinstance(handle, ControlHandle):
            self._controls.truncate(handle, size_bytes)
        elif handle is not None:
            raise os_error(errno.EROFS)
        elif control is Control.SAVE:
            self._controls.touch()
        elif control is None:
            self._changeable(path).truncate(path, size_bytes)

    # open files

    @through_door
    def create(self, path: bytes, flags: int, mode: int, caller: Caller) -> Handle:
        """Make and open a file."""
        if control_of(path) is Control.SAVE:
            return self._controls.create(path, flags, caller)
        self._changeable(path, errno.EEXIST)
        return self._writable().open_files.create(path, flags, mode, caller)

    @through_door
    def open(self, path: bytes, flags: int, caller: Caller) -> Handle:
        """Open a file."""
        below = below_versions(path)
        if below is not None:
            number = version_of_marker(path)
            if number is None:
                return self.versions.open(below, flags)
            return self._controls.open_of_version(number, flags)
        control = control_of(path)
        if control is not None:
            return self._controls.open(path, control, flags, caller)
        if self.writable is not None:
            return self.writable.open_files.open(path, flags)
        return self._view().open(path, flags)

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
            raise os_error(errno.EBADF)
        return self._controls.write(handle, data, offset_bytes)

    @through_door
    def allocate(self, handle: Handle, mode: int, offset_bytes: int, size_bytes: int) -> None:
        """fallocate(2)."""
        if not isinstance(handle, FileHandle):
            raise os_error(errno.EOPNOTSUPP)
        self._writable().open_files.allocate(handle, mode, offset_bytes, size_bytes)

    @through_door
    def flush(self, handle: Handle) -> None:
        """A descriptor is being closed: this is what makes close(2) of `.save` capture."""
        if isinstance(handle, ControlHandle):
            self._controls.flush(handle)

    @through_door
    def release(self, handle: Handle) -> None:
        """The last descriptor of a handle is closed."""
        if isinstance(handle, FileHandle):
            self._writable().open_files.close(handle)
        elif isinstance(handle, ViewHandle):
            if handle.reader is not None:
                handle.reader.close()
            os.close(handle.fd)
        else:
            self._controls.release(handle)

    @through_door
    def fsync(self, handle: Handle, data_only: bool) -> None:
        """Write back to the local disk; on `.save`, wait until all captured versions are durable."""
        if isinstance(handle, FileHandle):
            self._writable().open_files.sync(handle, data_only)
        elif isinstance(handle, ControlHandle):
            self._controls.sync(handle)

    # what only a transport that knows inodes and handles can ask for

    @through_door
    def going_past(self, handle: FileHandle) -> None:
        """The kernel will read and write this handle's file itself."""
        self._writable().open_files.unseen.going_past(handle)

    @through_door
    def create_nameless(self, directory: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Make and open a file without a name (O_TMPFILE)."""
        self._changeable(directory)
        return self._writable().open_files.nameless.create(directory, flags, mode, caller)

    @through_door
    def reopen(self, handle: OpenFile, flags: int) -> OpenFile:
        """Open an open file that has no name once more."""
        if isinstance(handle, ViewHandle):
            return self._open_in_version(handle.ino, flags)
        return self._writable().open_files.reopen(handle, flags)

    @through_door
    def link_nameless(self, handle: OpenFile, path: bytes) -> None:
        """Give an open file that has no name one."""
        self._changeable(path, errno.EEXIST)
        self._writable().open_files.nameless.link(_of_live_tree(handle), path)

    @through_door
    def change_nameless(
        self,
        handle: Handle | None,
        mode: int | None,
        owner: tuple[int, int],
        times: tuple[int | None, int | None] | None,
    ) -> None:
        """Set attributes of an open file that has no name."""
        if isinstance(handle, FileHandle | ViewHandle):
            self._writable().open_files.nameless.change(_of_live_tree(handle), mode, owner, times)

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
                raise os_error(errno.EPERM)
            self.drop_privileges(path, caller)
            live.chown(path, -1, -1)

    @through_door
    def seek(self, handle: Handle, offset_bytes: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE."""
        if isinstance(handle, ControlHandle):
            raise os_error(errno.EINVAL)
        filling = handle.reader.filling if handle.reader is not None else None
        if filling is None or filling.is_filled or filling.is_closed:
            return os.lseek(handle.fd, offset_bytes, whence)
        found = filling.seek(offset_bytes, whence)
        if found is None:
            raise os_error(errno.ENXIO)
        return found

    @through_door
    def copy_range(self, source: Handle, target: Handle, source_bytes: int, target_bytes: int, size_bytes: int) -> int:
        """copy_file_range(2) between two open files; return how much was copied."""
        if isinstance(source, ControlHandle) or not isinstance(target, FileHandle):
            raise os_error(errno.EOPNOTSUPP)
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
                return tree.open(where, flags)
        except FileNotFoundError:
            pass  # the mount shows another version now
        return self._open_in_version(ino, flags)

    def _open_in_version(self, ino: int, flags: int) -> ViewHandle:
        """Return a handle for a file of a version, by its inode's number."""
        version = self.versions.view(version_of(ino))
        path = version.path_of(ino)
        if path is None:
            raise os_error(errno.ESTALE)
        return version.open(path, flags)

    def go_on_mapped(self, ino: int, path: bytes) -> bool:
        """A file may be changed through a mapping; return False if there is no such file any more."""
        return self.writable is not None and self.writable.open_files.unseen.go_on_mapped(ino, path)

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
        touch = Touch(process, bool(flags & os.O_APPEND), began_ns, bytearray(text), captured_text=captured)
        return self._controls.go_on(path, flags, shown, touch)

    @through_door
    def finish_touch_by_rename(self) -> None:
        """Go on with a file that was being renamed to `.save`."""
        self._controls.finish_touch_by_rename()

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
            raise os_error(errno.EROFS)
        self._refuse_control(path, control_errno)
        return self._writable().live

    def _nameable(self, path: bytes, control_errno: int) -> LiveNames:
        """Return the names of the live tree if one may come, go or change there; a reserved one gives the errno."""
        self._changeable(path, control_errno)
        return self._writable().names

    def _refuse_control(self, path: bytes, number: int) -> None:
        if control_of(path) is not None:
            raise os_error(number)

    def _fixed_xattrs(self, path: bytes, below: bytes | None) -> dict[bytes, bytes]:
        if below is not None:
            return self.versions.xattrs(below)
        return {} if control_of(path) is not None else self._view().xattrs(path)


def _of_live_tree(handle: OpenFile) -> FileHandle:
    """Return the handle of a file that can be changed. Raises OSError (EROFS) for one of a version."""
    if isinstance(handle, ViewHandle):
        raise os_error(errno.EROFS)
    return handle


def _left_mode(status: os.stat_result, caller: Caller) -> int:
    """Return the permission bits that a file keeps when someone without CAP_FSETID changes it."""
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
        return mode
    left = mode & ~stat.S_ISUID
    # setgid without group execution means mandatory locking, and stays for who is in the group
    in_group = caller.uid == 0 or caller.gid == status.st_gid or status.st_gid in groups_of(caller.pid)
    return left if in_group and not mode & stat.S_IXGRP else left & ~stat.S_ISGID
