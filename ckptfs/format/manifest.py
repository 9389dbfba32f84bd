"""Manifests: the tree of one version, as values.

Pure. Layout of the bytes: docs/FORMAT.md section 4, coded in format/part.py; change both in one commit.

Invariants:
    M1  entries are sorted by path, and no path occurs twice
    M2  a file's extents cover [0, size_bytes) without gap or overlap
    M3  a published manifest is never rewritten
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What an entry is (FORMAT.md 4.1)."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER = 6
    BLOCK = 7


class Chunk(NamedTuple):
    """A range of a file that is stored as one frame of a pack (FORMAT.md 4.4)."""

    hash: bytes
    """BLAKE3-256 of the plain bytes."""
    size_bytes: int
    """Plain length."""
    pack: str
    """Key of the pack."""
    offset_bytes: int
    """Of the frame in the pack."""
    stored_bytes: int
    """Of the whole frame."""
    base: "Chunk | None" = None
    """The chunk that the frame is encoded against; it has no base itself."""


class Hole(NamedTuple):
    """A range of a file that was never written."""

    size_bytes: int


class LocalData(NamedTuple):
    """Pending versions only: the whole content is in `data/<index>` (FORMAT.md 7)."""

    size_bytes: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nothing needs


class ParentFile(NamedTuple):
    """Pending versions only: the whole content is that of a file of the version before (FORMAT.md 7)."""

    size_bytes: int
    path: bytes


Extent = Chunk | Hole | LocalData | ParentFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name of a version's tree (FORMAT.md 4.1)."""

    path: bytes
    """Relative to the mount's root, `/`-separated, no `.` or `..`; empty for the root itself."""
    kind: Kind
    mode: int
    """Permission, setuid, setgid and sticky bits."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size_bytes: int = 0
    """Logical size of a file, length of a symlink's target, else 0."""
    link_id: int = 0
    """Names with the same non-zero id are hard links of one inode."""
    rdev: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Sorted by name."""
    extents: tuple[Extent, ...] = ()
    torn: bool = False
    """The file changed while it was being captured and never held still."""


def representable(time_ns: int) -> int:
    """Return the nearest time that an entry can hold, from 1677 to 2262: filesystems do so with what theirs cannot."""
    return max(-(1 << 63), min(time_ns, (1 << 63) - 1))


@dataclass(frozen=True, slots=True)
class Part:
    """A sorted run of entries and tombstones (FORMAT.md 3.1, 4)."""

    entries: tuple[Entry, ...] = ()
    tombstones: tuple[bytes, ...] = ()


Tree = dict[bytes, Entry]
"""A whole version: path to entry, in path order."""


def merge(parts: Iterable[Part]) -> Tree:
    """Return the tree that the parts make up: later parts replace and remove (FORMAT.md 3.1)."""
    tree: Tree = {}
    for part in parts:
        for path in part.tombstones:
            tree.pop(path, None)
        for entry in part.entries:
            tree[entry.path] = entry
    return dict(sorted(tree.items()))
