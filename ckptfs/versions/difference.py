"""What differs between the trees of two versions. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ckptfs.format.manifest import Chunk, Entry, Hole, Tree


class Change(StrEnum):
    """How a path differs."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"
    """Another kind, size, data or symlink target."""
    ATTRIBUTES = "attributes"
    """The same content with another mode, owner, mtime, xattrs or set of hard links."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs."""

    path: bytes
    change: Change
    before: Entry | None
    after: Entry | None
    bytes_changed: int
    """Plain bytes of the newer file's chunks that the older one does not have; of a removed file its size."""


def differences(before: Tree, after: Tree) -> Iterator[Difference]:
    """Yield what differs between two trees, in path order.

    Content is compared by chunk hashes, without reading any; the same bytes cut into other chunks count as changed.
    """
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None and new is not None:
            yield Difference(path, Change.ADDED, None, new, _data_bytes(new, frozenset()))
        elif old is not None and new is None:
            yield Difference(path, Change.REMOVED, old, None, old.size_bytes)
        elif old is not None and new is not None:
            if _content(old) != _content(new):
                known = frozenset(extent.hash for extent in old.extents if isinstance(extent, Chunk))
                yield Difference(path, Change.CONTENT, old, new, _data_bytes(new, known))
            elif _attributes(old) != _attributes(new):
                yield Difference(path, Change.ATTRIBUTES, old, new, 0)


def new_bytes(before: Tree, after: Tree) -> int:
    """Return the plain bytes of the chunks that a tree has and another one has not, each counted once."""
    known = {chunk.hash for chunk in _chunks(before)}
    new = {chunk.hash: chunk.size_bytes for chunk in _chunks(after) if chunk.hash not in known}
    return sum(new.values())


def _chunks(tree: Tree) -> Iterator[Chunk]:
    return (extent for entry in tree.values() for extent in entry.extents if isinstance(extent, Chunk))


def _content(entry: Entry) -> tuple[object, ...]:
    data = tuple((extent.size_bytes, extent.hash if isinstance(extent, Chunk) else None) for extent in entry.extents)
    return entry.kind, entry.size_bytes, entry.target, entry.rdev, data


def _attributes(entry: Entry) -> tuple[object, ...]:
    # link ids are random per version; whether a file is linked at all is what can be compared
    return entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs, bool(entry.link_id)


def _data_bytes(entry: Entry, known: frozenset[bytes]) -> int:
    return sum(
        extent.size_bytes
        for extent in entry.extents
        if not isinstance(extent, Hole) and not (isinstance(extent, Chunk) and extent.hash in known)
    )
