"""The live tree: a directory of real files; looking at it, and changing what is under a name.

POSIX semantics, quotas and ENOSPC are the local filesystem's own; this module adds what the mount needs to know: what
changed (capture/changes.py), who shares bytes with a pending version (capture/guards.py) and which files have no data
yet (hydration/hydrator.py). Names come, go and change in names.py; open files are read and written in open_files.py.

Paths are bytes, relative to the root, without a leading slash; b"" is the root. Every change is made inside the gate,
after it was marked.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptfs.cache.spares import Spares
from ckptfs.capture.changes import Changes, LinkGroups
from ckptfs.capture.gate import Gate
from ckptfs.capture.guards import Guards
from ckptfs.capture.reach import Reachable, reach
from ckptfs.capture.scan import descriptor_path
from ckptfs.errors import os_error
from ckptfs.fs.attributes import Attributes, Listed, from_status
from ckptfs.fs.hydration.hydrator import Hydrator
from ckptfs.fs.times import set_times


def _format_of(entry: os.DirEntry[bytes]) -> int:
    """Return the kind of a directory's entry without asking for its status; 0 for kinds that would need it."""
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFLNK if entry.is_symlink() else 0


class LiveTree:
    """The live tree of one mount.

    Args:
        root_fd: Its root directory.
        spare_fd: A directory outside the tree on the same filesystem, for files that are open but have no name.
        spares: Files for those that are written anew.
        gate, changes, links, guards, hydrator: Shared with capture and open files.
    """

    def __init__(
        self,
        root_fd: int,
        spare_fd: int,
        *,
        spares: Spares,
        gate: Gate,
        changes: Changes,
        links: LinkGroups,
        guards: Guards,
        hydrator: Hydrator,
    ) -> None:
        self.root_fd = root_fd
        self.spare_fd = spare_fd
        self.spares = spares
        self.gate = gate
        self.changes = changes
        self.links = links
        self.guards = guards
        self.hydrator = hydrator
        self.era = 0
        """How often all of it became another version; grows with the gate closed."""

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

    def name_of(self, ino: int) -> bytes | None:
        """Return a path of an inode, None if there is none. Looks at the whole tree."""
        return next((path for path, its_ino, _ in self.walk(b"") if its_ino == ino), None)

    # attributes and contents

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the permission bits."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.chmod(self.at(path), mode, dir_fd=self.root_fd)
            self.changed(path)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Set owner and group; -1 leaves one as it is."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.chown(self.at(path), uid, gid, dir_fd=self.root_fd, follow_symlinks=False)
            self.changed(path)

    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set times; None leaves one as it is, NOW_NS stands for now."""
        with self.gate:
            self.changes.mark_attributes(path)

            def change() -> os.stat_result:
                set_times(self.root_fd, self.at(path), atime_ns, mtime_ns)
                return self.lstat(path)

            self.changes.times.renew(self.hydrator.set_mtime(mtime_ns, change))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.setxattr(descriptor_path(self.root_fd, path), name, value, flags, follow_symlinks=False)
            self.changed(path)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """Remove an extended attribute."""
        with self.gate:
            self.changes.mark_attributes(path)
            os.removexattr(descriptor_path(self.root_fd, path), name, follow_symlinks=False)
            self.changed(path)

    def changed(self, path: bytes) -> None:
        """A change that moves no mtime has been made. Called inside the gate."""
        if self.changes.times:
            self.changes.times.renew(self.lstat(path))

    def require_era(self, era: int | None) -> None:
        """Raise OSError (ESTALE) if a path that was taken in an era leads to another file now. Called inside the gate.

        Args:
            era: None for a path that must not be an older one's.
        """
        if era is not None and era != self.era:
            raise os_error(errno.ESTALE)

    def truncate(self, path: bytes, size_bytes: int, era: int | None = None) -> None:
        """Set a file's size by its name. Raises OSError (ESTALE) if it is of another era."""
        while True:
            status = self.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            ino = status.st_ino
            if size_bytes:
                self.hydrator.ensure(ino, path)
            with self.gate:
                self.require_era(era)
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
