"""The filesystem: what every operation does, whatever transport it came through.

Each path belongs to one of three: a control name (control_files.py), `.versions/` (versions_directory.py), or the tree,
which is the live tree of a read-write mount or a version's tree of a read-only one. Here the paths are told apart
(trees.py); what is done is in the modules of the three. Extended attributes are in xattrs.py, what a file loses of its
mode in privileges.py, and handles of a server that was killed in old_handles.py.

Paths are bytes, relative to the mount's root, without a leading slash. Every method may raise OSError with an errno,
and nothing else (door.py).
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.errors import os_error
from ckptfs.fs.attributes import Attributes, Caller, Listed
from ckptfs.fs.control import Control, below_versions, control_of, version_of_marker
from ckptfs.fs.control_files import ControlFiles
from ckptfs.fs.door import through_door
from ckptfs.fs.handles import ControlHandle, FileHandle, Handle, OpenFile, ViewHandle, of_live_tree
from ckptfs.fs.old_handles import OldHandles
from ckptfs.fs.privileges import Privileges
from ckptfs.fs.times import birth_ns
from ckptfs.fs.tree_view import TreeView
from ckptfs.fs.trees import Trees, refuse_control
from ckptfs.fs.versions_directory import VersionsDirectory
from ckptfs.fs.writable import Writable
from ckptfs.fs.xattrs import ExtendedAttributes
from ckptfs.libc import RENAME_NOREPLACE


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
    xattrs: ExtendedAttributes = field(init=False)
    privileges: Privileges = field(init=False)
    old_handles: OldHandles = field(init=False)
    _trees: Trees = field(init=False)
    _controls: ControlFiles = field(init=False)

    def __post_init__(self) -> None:
        self._trees = trees = Trees(self.writable, self.view)
        self._controls = ControlFiles(
            texts=self.texts, versions=self.versions, writable=self.writable, tree=trees.shown
        )
        self.xattrs = ExtendedAttributes(trees, self.versions)
        self.privileges = Privileges(trees)
        self.old_handles = OldHandles(trees, self.versions, self._controls)

    @property
    def era(self) -> int:
        """How often the live tree became another version as a whole."""
        return self.writable.live.era if self.writable is not None else 0

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
            return self._trees.writable().open_files.attributes(handle)
        if isinstance(handle, ViewHandle):
            return handle.attributes
        below = below_versions(path)
        if below is not None:
            number = version_of_marker(path)
            return self.versions.attributes(below) if number is None else self._controls.attributes_of_version(number)
        control = control_of(path)
        if control is None:
            return self._trees.shown().attributes(path)
        if control is Control.SAVE and handle is None and not is_known:
            self._controls.refuse_lookup_to_create(caller)
        return self._controls.attributes(path, control)

    @through_door
    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        below = below_versions(path)
        if below is not None:
            return self.versions.readlink(below)
        refuse_control(path, errno.EINVAL)
        return self._trees.shown().readlink(path)

    @through_door
    def listing(self, path: bytes) -> list[Listed]:
        """Return what is in a directory, without the reserved names."""
        below = below_versions(path)
        if below is not None:
            return self.versions.listing(below)
        refuse_control(path, errno.ENOTDIR)
        return self._trees.shown().listing(path)

    @through_door
    def statfs(self) -> os.statvfs_result:
        """Return the room of the filesystem that holds the cache."""
        return self.cache_root_status()

    @through_door
    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits; on a control file it does nothing."""
        if control_of(path) is None:
            self._trees.changeable(path).chmod(path, mode)

    @through_door
    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set owner and group; on a control file it does nothing."""
        if control_of(path) is None:
            self._trees.changeable(path).chown(path, uid, gid)

    @through_door
    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None, caller: Caller) -> None:
        """Set times: None for one that stays, NOW_NS for now. On `.save` it is a touch."""
        control = control_of(path)
        if control is Control.SAVE:
            self._controls.set_times(caller, mtime_ns)
        elif control is None:
            self._trees.changeable(path).utimens(path, atime_ns, mtime_ns)

    # names that come, go or change

    @through_door
    def mkdir(self, path: bytes, mode: int, caller: Caller) -> None:
        """Make a directory."""
        self._trees.nameable(path, errno.EEXIST).mkdir(path, mode, caller)

    @through_door
    def mknod(self, path: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a file, fifo, socket or device."""
        self._trees.nameable(path, errno.EEXIST).mknod(path, mode, device, caller)

    @through_door
    def symlink(self, path: bytes, target: bytes, caller: Caller) -> None:
        """Make a symlink."""
        self._trees.nameable(path, errno.EEXIST).symlink(path, target, caller)

    @through_door
    def link(self, source: bytes, path: bytes) -> None:
        """Give an inode a further name."""
        self._trees.changeable(source, errno.EPERM)
        self._trees.nameable(path, errno.EEXIST).link(source, path)

    @through_door
    def unlink(self, path: bytes) -> None:
        """Remove a name; removing `.save` succeeds and does nothing."""
        if control_of(path) is not Control.SAVE:
            self._trees.nameable(path, errno.EPERM).unlink(path)

    @through_door
    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        self._trees.nameable(path, errno.EPERM).rmdir(path)

    @through_door
    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, with the flags of renameat2(2); a file renamed to `.save` is a touch, its text the note."""
        live = self._trees.changeable(old, errno.EPERM)
        if control_of(new) is Control.SAVE:
            if flags & ~RENAME_NOREPLACE:
                raise os_error(errno.EINVAL)  # the marker cannot become another name's
            self._controls.touch_by_rename(live, old)
        else:
            self._trees.nameable(new, errno.EPERM).rename(old, new, flags)

    @through_door
    def truncate(self, path: bytes, size_bytes: int, handle: Handle | None = None, era: int | None = None) -> None:
        """Set a file's size.

        Args:
            era: When the path was taken; see LiveTree.require_era.
        """
        control = control_of(path)
        if isinstance(handle, FileHandle):
            self._trees.writable().open_files.truncate(handle, size_bytes)
        elif isinstance(handle, ControlHandle):
            self._controls.truncate(handle, size_bytes)
        elif handle is not None:
            raise os_error(errno.EROFS)
        elif control is Control.SAVE:
            self._controls.touch()
        elif control is None:
            self._trees.changeable(path).truncate(path, size_bytes, era)

    # open files

    @through_door
    def create(self, path: bytes, flags: int, mode: int, caller: Caller) -> Handle:
        """Make and open a file."""
        if control_of(path) is Control.SAVE:
            return self._controls.create(path, flags, caller)
        self._trees.changeable(path, errno.EEXIST)
        return self._trees.writable().open_files.create(path, flags, mode, caller)

    @through_door
    def open(
        self, path: bytes, flags: int, caller: Caller, era: int | None = None, known_ino: int | None = None
    ) -> Handle:
        """Open a file.

        Args:
            era: When the path was taken; see LiveTree.require_era.
            known_ino: See OpenFiles.open.
        """
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
            return self.writable.open_files.open(path, flags, era, known_ino)
        return self._trees.version_shown().open(path, flags)

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
    def write(self, handle: Handle, data: memoryview, offset_bytes: int, *, appends: bool = False) -> int:
        """Write to an open file. See OpenFiles.write."""
        if isinstance(handle, FileHandle):
            return self._trees.writable().open_files.write(handle, data, offset_bytes, appends=appends)
        if isinstance(handle, ViewHandle):
            raise os_error(errno.EBADF)
        return self._controls.write(handle, data, offset_bytes)

    @through_door
    def allocate(self, handle: Handle, mode: int, offset_bytes: int, size_bytes: int) -> None:
        """fallocate(2)."""
        if not isinstance(handle, FileHandle):
            raise os_error(errno.EOPNOTSUPP)
        self._trees.writable().open_files.allocate(handle, mode, offset_bytes, size_bytes)

    @through_door
    def flush(self, handle: Handle) -> None:
        """A descriptor is being closed: this is what makes close(2) of `.save` capture."""
        if isinstance(handle, ControlHandle):
            self._controls.flush(handle)

    @through_door
    def release(self, handle: Handle) -> None:
        """The last descriptor of a handle is closed."""
        if isinstance(handle, FileHandle):
            self._trees.writable().open_files.close(handle)
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
            self._trees.writable().open_files.sync(handle, data_only)
        elif isinstance(handle, ControlHandle):
            self._controls.sync(handle)

    # what only a transport that knows inodes and handles can ask for

    @through_door
    def going_past(self, handle: FileHandle) -> None:
        """The kernel will read and write this handle's file itself."""
        self._trees.writable().open_files.unseen.going_past(handle)

    @through_door
    def create_nameless(self, directory: bytes, flags: int, mode: int, caller: Caller) -> FileHandle:
        """Make and open a file without a name (O_TMPFILE)."""
        self._trees.changeable(directory)
        return self._trees.writable().open_files.nameless.create(directory, flags, mode, caller)

    @through_door
    def reopen(self, handle: OpenFile, flags: int) -> OpenFile:
        """Open an open file that has no name once more."""
        if isinstance(handle, ViewHandle):
            return self.versions.open_inode(handle.ino, flags)
        return self._trees.writable().open_files.reopen(handle, flags)

    @through_door
    def link_nameless(self, handle: OpenFile, path: bytes) -> None:
        """Give an open file that has no name one."""
        self._trees.changeable(path, errno.EEXIST)
        self._trees.writable().open_files.nameless.link(of_live_tree(handle), path)

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
            self._trees.writable().open_files.nameless.change(of_live_tree(handle), mode, owner, times)

    @through_door
    def birth_ns(self, path: bytes) -> int | None:
        """Return when a file was made, None where that is not known."""
        if self.writable is None or control_of(path) is not None or below_versions(path) is not None:
            return None
        live = self.writable.live
        return birth_ns(live.root_fd, live.at(path))

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
        return self._trees.writable().open_files.copy_range(source.fd, target, source_bytes, target_bytes, size_bytes)

    def is_open_and_named(self, ino: object) -> bool:
        """True of the inode of an open file of the live tree that has a name, be it looked up or not."""
        inode = self.writable.open_files.inodes.find(ino) if self.writable and isinstance(ino, int) else None
        # without a handle its number may come back before anybody hears that it has gone
        return inode is not None and inode.has_name and inode.handles > 0

    # what a server must hand over, and what only one that takes over can ask for, besides old handles

    @property
    def change_times(self) -> ChangeTimes:
        """The ctimes that files are shown with; a read-only mount keeps none."""
        return self.writable.live.changes.times if self.writable is not None else ChangeTimes()

    def newest_version(self) -> int:
        """Return the number of the newest captured version."""
        return self.writable.version() if self.writable is not None else 0

    @through_door
    def finish_touch_by_rename(self) -> None:
        """Go on with a file that was being renamed to `.save`."""
        self._controls.finish_touch_by_rename()
