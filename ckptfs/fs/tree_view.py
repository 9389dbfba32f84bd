"""One version's tree, shown read-only from its manifest: no live files, data fetched when a file is opened."""

import errno
import os
import stat
from collections.abc import Callable

from ckptfs.errors import os_error
from ckptfs.format.manifest import Chunk, Entry, Kind, Tree
from ckptfs.fs.attributes import Attributes, Listed
from ckptfs.fs.control import control_of
from ckptfs.fs.handles import ViewHandle
from ckptfs.fs.hydration.contents import ContentCache
from ckptfs.transfer.attributes import kind_format

# Inode numbers of versions begin where no local filesystem's do: 2^62 + version * 2^36 + index; those of one that a
# mount shows as its own tree 2^61 later, as the same version below `.versions` is there to stay when the mount moves on
_FIRST_INODE = 1 << 62
_INODES_OF_VERSION = 1 << 36
_VERSIONS = 1 << 25


def root_inode(version: int) -> int:
    """Return the inode number of a version's root."""
    return _FIRST_INODE + (version % _VERSIONS) * _INODES_OF_VERSION


def marker_inode(version: int) -> int:
    """Return the inode number of a version's `.save`: the last of its range."""
    return root_inode(version) + _INODES_OF_VERSION - 1


def version_of(inode: int) -> int:
    """Return the version whose tree has an inode number."""
    return (inode - _FIRST_INODE) // _INODES_OF_VERSION % _VERSIONS


def is_shown(inode: int) -> bool:
    """True if an inode number is one of a version that a mount shows as its own tree."""
    return inode >= _FIRST_INODE + _VERSIONS * _INODES_OF_VERSION


Owners = Callable[[Entry], tuple[int, int]]
"""User and group that an entry is shown as belonging to."""


def recorded_owners(entry: Entry) -> tuple[int, int]:
    """Return whom the version says that it belongs to."""
    return entry.uid, entry.gid


def owners_for(*, allow_other: bool) -> Owners:
    """Return whom files of versions belong to in a mount of this process.

    Where an ordinary user lets nobody else in, to that user, as what this user restores does (transfer/attributes.py):
    who may read the store is not to be kept from a file of mode 0600 that somebody else, or this user elsewhere, saved.
    """
    user, group = os.geteuid(), os.getegid()
    if allow_other or user == 0:
        return recorded_owners
    groups = {group, *os.getgroups()}
    return lambda entry: (user, entry.gid if entry.gid in groups else group)


class TreeView:
    """A version's names, attributes and files. Paths are relative to the version's root, which is b"".

    Args:
        on_read: Told of the path of each file that is opened.
        is_shown: It is the tree of a mount; not below `.versions`.
        owners: Whom entries belong to.
    """

    def __init__(
        self,
        tree: Tree,
        version: int,
        contents: ContentCache,
        on_read: Callable[[bytes], None] = lambda path: None,
        *,
        is_shown: bool = False,
        owners: Owners = recorded_owners,
    ) -> None:
        self.tree = tree
        self.version = version
        self._contents = contents
        self._on_read = on_read
        self._owners = owners
        self._children: dict[bytes, list[bytes]] = {path: [] for path, e in tree.items() if e.kind is Kind.DIRECTORY}
        self._children.setdefault(b"", [])
        self._inodes: dict[bytes, int] = {}
        self._links: dict[int, int] = {}
        first_of_link: dict[int, int] = {}
        first_inode = root_inode(version) + is_shown * _VERSIONS * _INODES_OF_VERSION
        self._inodes[b""] = first_inode
        for index, (path, entry) in enumerate(tree.items(), 1):
            if not path:
                continue
            ino = first_inode + index
            if entry.link_id:
                ino = first_of_link.setdefault(entry.link_id, ino)
                self._links[entry.link_id] = self._links.get(entry.link_id, 0) + 1
            self._inodes[path] = ino
            above, _, name = path.rpartition(b"/")
            # a store made by hand may have names that a mount keeps for itself: they are not listed there either
            if control_of(path) is None:
                self._children[above].append(name)

    def entry(self, path: bytes) -> Entry:
        """Return a path's entry. Raises FileNotFoundError."""
        try:
            return self.tree[path]
        except KeyError:
            if path == b"":
                return Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755)
            raise os_error(errno.ENOENT) from None

    def path_of(self, inode: int) -> bytes | None:
        """Return a path of an inode number, None if there is none."""
        return next((path for path, ino in self._inodes.items() if ino == inode), None)

    def attributes(self, path: bytes) -> Attributes:
        """Return a path's attributes, write permission and all: the mount itself is what is read-only."""
        entry = self.entry(path)
        nlink = self._links.get(entry.link_id, 1)
        if entry.kind is Kind.DIRECTORY:
            nlink = 2 + sum(
                self.tree[path + b"/" + name if path else name].kind is Kind.DIRECTORY for name in self._children[path]
            )
        uid, gid = self._owners(entry)
        data_bytes = sum(extent.size_bytes for extent in entry.extents if isinstance(extent, Chunk))
        return Attributes(
            ino=self._inodes[path],
            mode=kind_format(entry.kind) | entry.mode,
            nlink=nlink,
            uid=uid,
            gid=gid,
            size_bytes=entry.size_bytes,
            blocks=-(-data_bytes // 512),
            rdev=entry.rdev,
            atime_ns=entry.mtime_ns,
            mtime_ns=entry.mtime_ns,
            ctime_ns=entry.mtime_ns,
        )

    def listing(self, path: bytes) -> list[Listed]:
        """Return what is in a directory."""
        if self.entry(path).kind is not Kind.DIRECTORY:
            raise os_error(errno.ENOTDIR)
        prefix = path + b"/" if path else b""
        return [
            Listed(name, self._inodes[prefix + name], kind_format(self.tree[prefix + name].kind))
            for name in self._children[path]
        ]

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        entry = self.entry(path)
        if entry.kind is not Kind.SYMLINK:
            raise os_error(errno.EINVAL)
        return entry.target

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return all extended attributes."""
        return dict(self.entry(path).xattrs)

    def open(self, path: bytes, flags: int) -> ViewHandle:
        """Open a file for reading.

        Raises:
            OSError: EROFS if it is to be written, and what a file that is none gives.
        """
        entry = self.entry(path)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise os_error(errno.EROFS)
        if stat.S_ISDIR(kind_format(entry.kind)):
            raise os_error(errno.EISDIR)
        self._on_read(path)
        fd, reader = self._contents.open(entry)
        return ViewHandle(fd, self.attributes(path), self.xattrs(path), reader)

    def files(self) -> list[Entry]:
        """Return the files that have data, in path order."""
        return [entry for entry in self.tree.values() if entry.kind is Kind.FILE and entry.extents]
