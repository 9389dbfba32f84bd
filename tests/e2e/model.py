"""A file tree in memory that behaves as POSIX says: what the mount is compared with."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.snapshot import Node, Snapshot


@dataclass(eq=False)
class Inode:
    """A file of any kind; its identity is the object's."""

    kind: str
    """What ls shows first: - d l p."""
    mode: int
    uid: int
    gid: int
    content: bytearray = field(default_factory=bytearray)
    """A file's bytes, a symlink's target."""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    mtime_ns: int | None = None
    """None: changed by the last operation, to be learned from the mount."""


class Model:
    """Paths to inodes; the root is b"". Every operation changes the tree, or raises OSError and changes nothing."""

    def __init__(self, root: Inode) -> None:
        self.tree: dict[bytes, Inode] = {b"": root}

    # looking

    def paths(self, kinds: str) -> list[bytes]:
        """All paths of some kinds, sorted, without the root."""
        return sorted(path for path, inode in self.tree.items() if path and inode.kind in kinds)

    def directories(self) -> list[bytes]:
        """All directories, the root first."""
        return [b"", *self.paths("d")]

    def names_of(self, inode: Inode) -> list[bytes]:
        """All paths of an inode."""
        return sorted(path for path, other in self.tree.items() if other is inode)

    def find(self, path: bytes) -> Inode:
        """The inode of a path."""
        inode = self.tree.get(path)
        if inode is None:
            raise _error(errno.ENOENT)
        return inode

    # changing names

    def make(self, path: bytes, inode: Inode) -> Inode:
        """Give a new inode its first name."""
        if path in self.tree:
            raise _error(errno.EEXIST)
        self.tree[path] = inode
        self._changed_names(path)
        return inode

    def link(self, source: bytes, path: bytes) -> None:
        """Give an inode a further name."""
        inode = self.find(source)
        if path in self.tree:
            raise _error(errno.EEXIST)
        if inode.kind == "d":
            raise _error(errno.EPERM)
        self.tree[path] = inode
        self._changed_names(path)

    def unlink(self, path: bytes) -> None:
        """Remove a name that is no directory's."""
        if self.find(path).kind == "d":
            raise _error(errno.EISDIR)
        del self.tree[path]
        self._changed_names(path)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        if self.find(path).kind != "d":
            raise _error(errno.ENOTDIR)
        if any(self._below(path)):
            raise _error(errno.ENOTEMPTY)
        del self.tree[path]
        self._changed_names(path)

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename, replacing what has the new name."""
        inode, other = self.find(old), self.tree.get(new)
        if new.startswith(old + b"/"):
            raise _error(errno.EINVAL)
        if old.startswith(new + b"/"):
            raise _error(errno.ENOTEMPTY)
        if other is inode:
            return
        if other is not None:
            if inode.kind == "d" and other.kind != "d":
                raise _error(errno.ENOTDIR)
            if inode.kind != "d" and other.kind == "d":
                raise _error(errno.EISDIR)
            if any(self._below(new)):
                raise _error(errno.ENOTEMPTY)
        for path in [old, *self._below(old)]:
            self.tree[new + path[len(old) :]] = self.tree.pop(path)
        self._changed_names(old)
        self._changed_names(new)

    def exchange(self, one: bytes, other: bytes) -> None:
        """Have two names change places, with all that is below them."""
        first, second = self.find(one), self.find(other)
        if one.startswith(other + b"/") or other.startswith(one + b"/"):
            raise _error(errno.EINVAL)
        if first is second:
            return
        moved = {other + path[len(one) :]: self.tree.pop(path) for path in [one, *self._below(one)]}
        back = {one + path[len(other) :]: self.tree.pop(path) for path in [other, *self._below(other)]}
        self.tree.update(moved | back)
        self._changed_names(one)
        self._changed_names(other)

    # changing inodes

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        """Write bytes at an offset; a gap reads as zeros."""
        if offset > len(inode.content):
            inode.content.extend(bytes(offset - len(inode.content)))
        inode.content[offset : offset + len(data)] = data
        inode.mtime_ns = None

    def truncate(self, inode: Inode, size: int) -> None:
        """Set the size."""
        del inode.content[size:]
        inode.content.extend(bytes(size - len(inode.content)))
        inode.mtime_ns = None

    # comparing

    def snapshot(self) -> Snapshot:
        """Return the tree as values."""
        names: dict[int, set[bytes]] = {}
        for path, inode in self.tree.items():
            names.setdefault(id(inode), set()).add(path)
        return {path: _node(inode, names[id(inode)]) for path, inode in self.tree.items()}

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Model":
        """Return a model that is the tree of a snapshot."""
        inodes: dict[frozenset[bytes], Inode] = {}
        model = cls(_inode(snapshot[b""]))
        for path, node in snapshot.items():
            inode = inodes.get(node.links) if node.links else None
            if path:
                model.tree[path] = inode if inode is not None else _inode(node)
            if node.links:
                inodes.setdefault(node.links, model.tree[path])
        return model

    def learn(self, actual: Snapshot) -> None:
        """Take the modification times that nothing but the mount can know."""
        for path, inode in self.tree.items():
            if inode.mtime_ns is None and path in actual:
                inode.mtime_ns = actual[path].mtime_ns

    def _below(self, path: bytes) -> Iterator[bytes]:
        return iter([other for other in self.tree if other.startswith(path + b"/")])

    def _changed_names(self, path: bytes) -> None:
        self.tree[path.rpartition(b"/")[0]].mtime_ns = None


def _node(inode: Inode, names: set[bytes]) -> Node:
    return Node(
        kind=inode.kind,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        mtime_ns=inode.mtime_ns or 0,
        size_bytes=len(inode.content) if inode.kind == "-" else 0,
        content=bytes(inode.content),
        xattrs=tuple(sorted(inode.xattrs.items())),
        links=frozenset(names) if len(names) > 1 else frozenset(),
        rdev=0,
    )


def _inode(node: Node) -> Inode:
    return Inode(
        node.kind, node.mode, node.uid, node.gid, bytearray(node.content), dict(node.xattrs), mtime_ns=node.mtime_ns
    )


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
