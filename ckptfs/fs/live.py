"""The live tree: a directory of real files, and every operation that changes or reads its names and attributes.

POSIX semantics, quotas and ENOSPC are the local filesystem's own; this module adds what the mount needs to know: what
changed (capture/changes.py), who shares bytes with a pending version (capture/guards.py) and which files have no data
yet (hydrate.py). Reading and writing of open files is in open_files.py.

Paths are bytes, relative to the root, without a leading slash; b"" is the root. Every change is made inside the gate,
after it was marked.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ckptfs.capture.changes import Changes, LinkGroups
from ckptfs.capture.gate import Gate
from ckptfs.capture.guards import Guards
from ckptfs.capture.reach import Reachable, reach
from ckptfs.capture.scan import descriptor_path
from ckptfs.fs.attributes import Attributes, Caller, Listed, from_status
from ckptfs.fs.hydrate import Hydrator
from ckptfs.fs.times import set_times
from ckptfs.libc import RENAME_EXCHANGE, renameat2


def _format_of(entry: os.DirEntry[bytes]) -> int:
    """Return the kind of a directory's entry without asking for its status; 0 for kinds that would need it."""
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFLNK if entry.is_symlink() else 0


def parent_of(path: bytes) -> bytes:
    """Return the path of the directory that holds a name."""
    return path.rpartition(b"/")[0]


class LiveTree:
    """Names and attributes of the live tree.

    Args:
        root_fd: Its root directory.
        spare_fd: A directory outside the tree on the same filesystem, for files that are open but have no name.
        gate, changes, links, guards, hydrator: Shared with capture and open files.
    """

    def __init__(
        self,
        root_fd: int,
        spare_fd: int,
        *,
        gate: Gate,
        changes: Changes,
        links: LinkGroups,
        guards: Guards,
        hydrator: Hydrator,
    ) -> None:
        self.root_fd = root_fd
        self.spare_fd = spare_fd
        self.gate = gate
        self.changes = changes
        self.links = links
        self.guards = guards
        self.hydrator = hydrator
        self.before_unlink: Callable[[int, bytes], None] = lambda ino, path: None
        """Told of an inode and a name that it is about to lose, inside the gate."""
        self.on_nameless: Callable[[int], None] = lambda ino: None
        """Told of every inode that loses its last name, inside the gate."""
        self.on_renamed: Callable[[int, bytes], None] = lambda ino, path: None
        """Told of a name that a file has, when the one that was known may be gone; inside the gate."""

    def at(self, path: bytes) -> Reachable:
        """Return what to give to a system call that takes the root's descriptor, to be used at once."""
        return reach(self.root_fd, path)

    # reading

    def lstat(self, path: bytes) -> os.stat_result:
        """Return a path's own status, as the backing file has it."""
        return os.stat(self.at(path), dir_fd=self.root_fd, follow_symlinks=False)

    def attributes(self, path: bytes) -> Attributes:
        """Return a path's attributes as the mount shows them."""
        return self.looked_at(lambda: self.lstat(path))

    def looked_at(self, look: Callable[[], os.stat_result], nlink: int | None = None) -> Attributes:
        """Return the attributes of a backing file that can be looked at.

        Args:
            nlink: See shown().
        """
        while True:
            completions = self.hydrator.completions
            status = look()
            attributes = self.shown(status, nlink)
            # one that was a stub when it was looked at and is none now had a time of its own
            if completions == self.hydrator.completions or status.st_ino in self.hydrator:
                return attributes

    def shown(self, status: os.stat_result, nlink: int | None = None) -> Attributes:
        """Return attributes of a backing file with what is ours to say: link count, ctime, a stub's mtime."""
        if stat.S_ISDIR(status.st_mode):
            nlink = status.st_nlink
        # the backing count has the links of pending versions, and of what was set aside, in it
        attributes = from_status(status, self.links.count(status.st_ino) if nlink is None else nlink)
        stub = self.hydrator.get(status.st_ino)
        if stub is not None:
            attributes = attributes._replace(mtime_ns=stub.mtime_ns, blocks=stub.data_blocks)
        if self.changes.times:
            attributes = attributes._replace(ctime_ns=self.changes.times.shown(status, attributes.mtime_ns))
        return attributes

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        return os.readlink(self.at(path), dir_fd=self.root_fd)

    def listing(self, path: bytes) -> list[Listed]:
        """Return what is in a directory, without `.` and `..`."""
        with os.scandir(descriptor_path(self.root_fd, path)) as entries:
            return [Listed(entry.name, entry.inode(), _format_of(entry)) for entry in entries]

    def statfs(self) -> os.statvfs_result:
        """Return the room of the filesystem that holds the live tree."""
        return os.fstatvfs(self.root_fd)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute."""
        return os.getxattr(descriptor_path(self.root_fd, path), name, follow_symlinks=False)

    def listxattr(self, path: bytes) -> list[bytes]:
        """Return the names of all extended attributes."""
        names = os.listxattr(descriptor_path(self.root_fd, path), follow_symlinks=False)
        return [os.fsencode(name) for name in names]

    # new names

    def mkdir(self, path: bytes, mode: int, caller: Caller) -> None:
        """Make a directory."""
        with self.gate:
            self._mark_new(path)
            os.mkdir(self.at(path), mode, dir_fd=self.root_fd)
            self.give_to(path, mode, caller)

    def mknod(self, path: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a file, fifo, socket or device."""
        with self.gate:
            self._mark_new(path)
            os.mknod(self.at(path), mode, device, dir_fd=self.root_fd)
            if stat.S_ISREG(mode):
                self.changes.mark_content(path, self.lstat(path).st_ino)
            self.give_to(path, stat.S_IMODE(mode), caller)

    def symlink(self, path: bytes, target: bytes, caller: Caller) -> None:
        """Make a symlink."""
        with self.gate:
            self._mark_new(path)
            os.symlink(target, self.at(path), dir_fd=self.root_fd)
            self.give_to(path, None, caller)

    def link(self, source: bytes, path: bytes) -> None:
        """Give an inode a further name."""
        with self.gate:
            self._mark_new(path)
            self.changes.mark_attributes(source)
            os.link(
                self.at(source), self.at(path), src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd, follow_symlinks=False
            )
            status = self.lstat(source)
            self.changes.times.renew(status)
            self.links.link(status.st_ino, source, path)
            if stat.S_ISREG(status.st_mode):
                self.changes.moved(status.st_ino, source)

    def give_to(self, path: bytes, mode: int | None, caller: Caller) -> None:
        """Make a new inode the caller's, with the group that a set-group-id directory hands down."""
        if caller.uid == os.geteuid() and caller.gid == os.getegid():
            return
        above = self.lstat(parent_of(path))
        gid = -1 if above.st_mode & stat.S_ISGID else caller.gid
        try:
            os.chown(self.at(path), caller.uid, gid, dir_fd=self.root_fd, follow_symlinks=False)
        except PermissionError:
            return  # without CAP_CHOWN what we make stays ours
        if mode is not None and mode & (stat.S_ISUID | stat.S_ISGID):
            # chown takes these bits away
            os.chmod(self.at(path), mode, dir_fd=self.root_fd)

    # names that go or change

    def unlink(self, path: bytes) -> None:
        """Remove a name that is no directory's."""
        with self.gate, self.kept(path) as status:
            self.changes.mark_name(path)
            self.changes.mark_attributes(parent_of(path))
            self._mark_left(status.st_ino, path)
            self.before_unlink(status.st_ino, path)
            os.unlink(self.at(path), dir_fd=self.root_fd)
            self.lost_name(status, path)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with self.gate:
            ino = self.lstat(path).st_ino
            self.changes.mark_name(path)
            self.changes.mark_attributes(parent_of(path))
            os.rmdir(self.at(path), dir_fd=self.root_fd)
            self.changes.times.forget(ino)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, replacing what has the new name; or, as renameat2(2) has it, not replacing (1), or exchanging (2)."""
        # nobody may make a file below a directory between the walk through it and its renaming
        moves_directories = flags or stat.S_ISDIR(self.lstat(old).st_mode)
        with self.gate.exclusive() if moves_directories else self.gate, self.kept(new, missing_ok=True) as replaced:
            status = self.lstat(old)
            if flags:
                self._rename_with_flags(old, new, flags, status, replaced)
                return
            if replaced is not None and replaced.st_ino == status.st_ino:
                return  # two names of one inode: POSIX wants nothing done
            moved = self._mark_rename(old, new, status)
            if replaced is not None:
                self._mark_left(replaced.st_ino, new)
                self.before_unlink(replaced.st_ino, new)
            os.rename(self.at(old), self.at(new), src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd)
            if replaced is not None:
                self.lost_name(replaced, new)
            self._follow_rename(moved, old, new)
            self._changed(new)

    @contextmanager
    def kept(self, path: bytes, *, missing_ok: bool = False) -> Iterator[Any]:
        """Keep an inode that is about to lose a name: its number must not be given to another file before all that is
        known of it has been forgotten.

        Yields:
            Its status, None if there is nothing and that is no matter.
        """
        try:
            fd = os.open(self.at(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.root_fd)
        except FileNotFoundError:
            if not missing_ok:
                raise
            yield None
            return
        try:
            yield os.fstat(fd)
        finally:
            os.close(fd)

    def _rename_with_flags(
        self, old: bytes, new: bytes, flags: int, status: os.stat_result, other: os.stat_result | None
    ) -> None:
        moved = self._mark_rename(old, new, status)
        moved_back = self._mark_rename(new, old, other) if other is not None and flags == RENAME_EXCHANGE else []
        at_old, at_new = self.at(old), self.at(new)
        renameat2(self.root_fd, os.fspath(at_old), self.root_fd, os.fspath(at_new), flags)
        self._follow_rename(moved, old, new)
        self._follow_rename(moved_back, new, old)

    def move_out(self, path: bytes, name: bytes, *, keep_name: bool) -> None:
        """Keep an open file that loses this name reachable in the spare directory.

        Args:
            keep_name: The name is about to be replaced by a rename, and must be there until then.
        """
        with self.gate:
            status = self.lstat(path)
            if keep_name:
                os.link(self.at(path), name, src_dir_fd=self.root_fd, dst_dir_fd=self.spare_fd, follow_symlinks=False)
                return
            self.changes.mark_name(path)
            self.changes.mark_attributes(parent_of(path))
            self._mark_left(status.st_ino, path)
            os.rename(self.at(path), name, src_dir_fd=self.root_fd, dst_dir_fd=self.spare_fd)
            self.lost_name(status, path)

    def move_in(self, name: bytes, path: bytes) -> None:
        """Undo a move_out: give a file in the spare directory a name of the tree."""
        with self.gate:
            self._mark_new(path)
            self.changes.mark_content(path, os.stat(name, dir_fd=self.spare_fd, follow_symlinks=False).st_ino)
            os.rename(name, self.at(path), src_dir_fd=self.spare_fd, dst_dir_fd=self.root_fd)

    def lost_name(self, status: os.stat_result, path: bytes) -> None:
        """Draw the consequences of a removed name. Called inside the gate."""
        if stat.S_ISDIR(status.st_mode):
            self.changes.times.forget(status.st_ino)
            return
        left = self.links.unlink(status.st_ino, path)
        if left is not None:
            self._known_as(status.st_ino, left)
            self._changed(left)
            return
        self.hydrator.lost_name(status.st_ino)
        self.changes.forget_inode(status.st_ino)
        self.on_nameless(status.st_ino)

    def _mark_left(self, ino: int, path: bytes) -> None:
        """A name goes away: what was marked by it must be found by another that the inode has."""
        left = next((name for name in self.links.names(ino) if name != path), None)
        if left is None:
            return
        if ino in self.changes.current.content:
            self.changes.mark_content(left, ino)
        else:
            self.changes.mark_attributes(left)

    def _mark_new(self, path: bytes) -> None:
        self.changes.mark_name(path)
        self.changes.mark_attributes(parent_of(path))

    def _mark_rename(self, old: bytes, new: bytes, status: os.stat_result) -> list[tuple[bytes, int]]:
        """Mark all names that a rename changes; return path and inode of all that moves with it."""
        self._mark_new(old)
        self._mark_new(new)
        if stat.S_ISREG(status.st_mode):
            self.changes.moved(status.st_ino, old)
        moved = [(old, status.st_ino)]
        if stat.S_ISDIR(status.st_mode):
            for below, ino, is_file in self.walk(old):
                self.changes.mark_name(below)
                self.changes.mark_name(new + below[len(old) :])
                moved.append((below, ino))
                if is_file:
                    self.changes.moved(ino, below)
        return moved

    def _follow_rename(self, moved: list[tuple[bytes, int]], old: bytes, new: bytes) -> None:
        for path, ino in moved:
            path_now = new + path[len(old) :]
            self.links.rename(ino, path, path_now)
            self._known_as(ino, path_now)

    def _known_as(self, ino: int, path: bytes) -> None:
        self.on_renamed(ino, path)
        stub = self.hydrator.get(ino)
        if stub is not None:
            stub.path = path

    def walk(self, top: bytes) -> Iterator[tuple[bytes, int, bool]]:
        """Yield (path, inode, is a regular file) of everything below a directory, parents first."""
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            with os.scandir(descriptor_path(self.root_fd, directory)) as entries:
                for entry in entries:
                    path = directory + b"/" + entry.name if directory else entry.name
                    yield path, entry.inode(), entry.is_file(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)

    # attributes

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.chmod(self.at(path), mode, dir_fd=self.root_fd)
            self._changed(path)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set owner and group; -1 leaves one as it is."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.chown(self.at(path), uid, gid, dir_fd=self.root_fd, follow_symlinks=False)
            self._changed(path)

    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set times; None leaves one as it is, NOW_NS stands for now."""
        with self.gate:
            self.changes.mark_attributes(path)
            set_times(self.root_fd, self.at(path), atime_ns, mtime_ns)
            status = self.lstat(path)
            self.changes.times.renew(status)
            stub = self.hydrator.get(status.st_ino) if stat.S_ISREG(status.st_mode) else None
            if stub is not None and mtime_ns is not None:
                stub.mtime_ns = status.st_mtime_ns

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.setxattr(descriptor_path(self.root_fd, path), name, value, flags, follow_symlinks=False)
            self._changed(path)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove an extended attribute."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.removexattr(descriptor_path(self.root_fd, path), name, follow_symlinks=False)
            self._changed(path)

    def _changed(self, path: bytes) -> None:
        """A change that moves no mtime has been made."""
        if self.changes.times:
            self.changes.times.renew(self.lstat(path))

    def truncate(self, path: bytes, size_bytes: int) -> None:
        """Set a file's size by its name."""
        while True:
            status = self.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            ino = status.st_ino
            if size_bytes:
                self.hydrator.ensure(ino, path)
            with self.gate:
                if not self.is_still(path, ino, with_data=size_bytes > 0):
                    continue
                with self.truncating(path, ino, size_bytes):
                    os.truncate(descriptor_path(self.root_fd, path), size_bytes)
                return

    def is_still(self, path: bytes, ino: int, *, with_data: bool) -> bool:
        """True if a path is an inode's name, and has its data if it must. Inside the gate it stays so."""
        return self.lstat(path).st_ino == ino and not (with_data and ino in self.hydrator)

    @contextmanager
    def truncating(self, path: bytes, ino: int, size_bytes: int) -> Iterator[None]:
        """Let a file's bytes from a size on go: marked and protected before. Entered inside the gate."""
        self.changes.mark_content(path, ino)
        self.guards.protect(ino, size_bytes)
        if size_bytes:
            yield
            return
        with self.hydrator.truncating(ino):
            yield
