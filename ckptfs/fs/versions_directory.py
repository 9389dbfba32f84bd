"""`.versions/`: every version in the store as a read-only directory, `latest` and the tags as symlinks to them.

A version appears when it is durable. Listing costs the requests of one newest record; a version's tree is loaded when
it is first looked into.
"""

import errno
import os
import stat
import threading
import time
import zlib
from collections import OrderedDict

from ckptfs.errors import CkptfsError, os_error
from ckptfs.format.commit import CommitRecord
from ckptfs.fs.attributes import Attributes, Listed
from ckptfs.fs.handles import ViewHandle
from ckptfs.fs.hydration.contents import ContentCache
from ckptfs.fs.tree_view import Owners, TreeView, is_shown, recorded_owners, root_inode, version_of
from ckptfs.versions.history import LATEST, History

# Trees that stay loaded: enough to compare a few versions, little against 100,000 files each
_KEPT_TREES = 8
# How long a listing is trusted: other machines commit and tag, and `ls -l` asks for each name
_FRESH_S = 1.0
_INODE = (1 << 62) - 16
_FIRST_LINK_INODE = (1 << 62) - (1 << 33)


class VersionsDirectory:
    """The content of `.versions`. Paths are relative to it: b"" is itself, b"41/model.pt" a file of version 41."""

    def __init__(self, history: History, contents: ContentCache, owners: Owners = recorded_owners) -> None:
        self._history = history
        self._contents = contents
        self._owners = owners
        self._trees: OrderedDict[tuple[int, bool], TreeView] = OrderedDict()
        self._lock = threading.Lock()
        self._listed_s = float("-inf")
        self._changes = 0
        self._numbers: frozenset[int] = frozenset()
        self._links: dict[bytes, bytes] = {}
        self._newest_ns = 0
        """Wall clock time of the newest commit: since then no link has changed."""

    def attributes(self, path: bytes) -> Attributes:
        """Return a path's attributes."""
        if path == b"":
            now_ns = time.time_ns()
            return Attributes(
                ino=_INODE,
                mode=stat.S_IFDIR | 0o555,
                nlink=2,
                uid=os.geteuid(),
                gid=os.getegid(),
                size_bytes=0,
                mtime_ns=now_ns,
                ctime_ns=now_ns,
                atime_ns=now_ns,
            )
        target = self._link(path)
        if target is not None:
            return Attributes(
                ino=_link_inode(path, target),
                mode=stat.S_IFLNK | 0o777,
                nlink=1,
                uid=os.geteuid(),
                gid=os.getegid(),
                size_bytes=len(target),
                atime_ns=self._newest_ns,
                mtime_ns=self._newest_ns,
                ctime_ns=self._newest_ns,
            )
        view, below = self._find(path)
        return view.attributes(below)

    def listing(self, path: bytes) -> list[Listed]:
        """Return what is in a directory."""
        if path == b"":
            self._refresh()
            directories = [Listed(b"%d" % number, root_inode(number), stat.S_IFDIR) for number in sorted(self._numbers)]
            links = (Listed(name, _link_inode(name, target), stat.S_IFLNK) for name, target in self._links.items())
            return [*directories, *links]
        view, below = self._find(path)
        return view.listing(below)

    def readlink(self, path: bytes) -> bytes:
        """Return a symlink's target."""
        target = self._link(path)
        if target is not None:
            return target
        view, below = self._find(path)
        return view.readlink(below)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Return all extended attributes."""
        if path == b"" or self._link(path) is not None:
            return {}
        view, below = self._find(path)
        return view.xattrs(below)

    def open(self, path: bytes, flags: int) -> ViewHandle:
        """Open a file. See TreeView.open."""
        view, below = self._find(path)
        return view.open(below, flags)

    def view(self, number: int, *, shown: bool = False) -> TreeView:
        """Return a version's tree. Raises NoSuchVersionError, CorruptObjectError, StoreError.

        Args:
            shown: With the inode numbers that it has as the tree of a mount.
        """
        key = number, shown
        with self._lock:
            view = self._trees.get(key)
            if view is not None:
                self._trees.move_to_end(key)
                return view
        record = self._history.version(number)
        view = TreeView(self._history.tree(record), number, self._contents, is_shown=shown, owners=self._owners)
        with self._lock:
            self._trees[key] = view
            while len(self._trees) > _KEPT_TREES:
                self._trees.popitem(last=False)
        return view

    def open_inode(self, ino: int, flags: int) -> ViewHandle:
        """Return a handle for a file of a version, by its inode's number."""
        version = self.view(version_of(ino), shown=is_shown(ino))
        path = version.path_of(ino)
        if path is None:
            raise os_error(errno.ESTALE)
        return version.open(path, flags)

    def record(self, number: int) -> CommitRecord:
        """Return a version's save record. Raises NoSuchVersionError, CorruptObjectError, StoreError."""
        return self._history.version(number)

    def changed(self) -> None:
        """A version has become durable: list again, also if a listing is under way."""
        self._changes += 1
        self._listed_s = float("-inf")

    def _link(self, path: bytes) -> bytes | None:
        if b"/" in path or path.isdigit():
            return None
        self._refresh()
        if path not in self._links:
            # it may have been given a moment ago; who asks for a name that is none is seldom
            self._listed_s = float("-inf")
            self._refresh()
        return self._links.get(path)

    def _find(self, path: bytes) -> tuple[TreeView, bytes]:
        name, _, below = path.partition(b"/")
        # `041` is no name of version 41
        if not name.isdigit() or name != b"%d" % int(name):
            raise os_error(errno.ENOENT)
        number = int(name)
        if not below:
            # the kernel asks for a version's name once a second at most
            self._refresh()
        return self.view(number), below

    def _refresh(self) -> None:
        now_s = time.monotonic()
        if now_s - self._listed_s < _FRESH_S:
            return
        changes = self._changes
        try:
            newest = self._history.newest()
            numbers = frozenset(self._history.numbers())
            tags = self._history.tags(newest=newest)
        except CkptfsError:
            if self._listed_s == float("-inf") and not self._numbers:
                raise
            return  # the store is away: what was listed before is still true
        with self._lock:
            for key in [key for key in self._trees if key[0] not in numbers]:
                del self._trees[key]  # pruned
        self._numbers = numbers
        self._newest_ns = newest.time_ns if newest is not None else 0
        self._links = {name.encode(): b"%d" % number for name, number in sorted(tags.items()) if number in numbers}
        if numbers:
            self._links[LATEST.encode()] = b"%d" % max(numbers)
        if changes == self._changes:
            self._listed_s = now_s


def _link_inode(name: bytes, target: bytes) -> int:
    """Return another number for every name and target: the kernel may keep what an inode's symlink says."""
    return _FIRST_LINK_INODE + zlib.crc32(name + b"\0" + target)
