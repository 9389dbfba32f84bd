"""What the entries of a manifest part, and of a whole tree, must satisfy.

Pure. One set of rules (docs/FORMAT.md 4.1 to 4.7 and 7) serves encoding and decoding: part.py applies it to values.
What a field's width already excludes is left to part.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from operator import attrgetter, lt

from ckptfs.errors import CorruptObjectError
from ckptfs.format.manifest import Chunk, Entry, Hole, Kind, LocalData, ParentFile, Part, Tree
from ckptfs.format.pack import check_frame_place
from ckptfs.hashing import HASH_BYTES

MAX_FILE_BYTES = (1 << 63) - 1
"""What off_t holds."""
MAX_PATH_BYTES = 0xFFFF
MAX_NAME_BYTES = 255
"""Of one component: NAME_MAX of Linux, whatever the filesystem."""
MAX_TARGET_BYTES = 4095
"""Of a symlink: PATH_MAX of Linux, less the NUL."""
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_VALUE_BYTES = 64 << 10
MAX_RDEV = (1 << 32) - 1
"""What the kernel's own encoding of a device number holds."""

_STORED = frozenset((Chunk, Hole))
_LOCAL = frozenset((Chunk, Hole, LocalData, ParentFile))
_DEVICES = frozenset((Kind.CHARACTER, Kind.BLOCK))

_inode = attrgetter(*(item.name for item in fields(Entry) if item.name != "path"))
"""All of an entry that its hard links share."""


def check_part(part: Part, *, local: bool) -> None:
    """Raise CorruptObjectError unless a part follows the rules.

    Args:
        part: n entries and tombstones; takes O(n) time.
        local: True for the part of a pending version, which may have local extents as well.
    """
    paths = [entry.path for entry in part.entries]
    _check_paths(paths)
    _check_paths(part.tombstones)
    if not set(paths).isdisjoint(part.tombstones):
        both = min(set(paths).intersection(part.tombstones))
        raise CorruptObjectError(f"{both!r} is both an entry and a tombstone of one part")
    if part.tombstones and part.tombstones[0] == b"":
        raise CorruptObjectError("a tombstone for the root directory")
    if paths and not paths[0] and part.entries[0].kind is not Kind.DIRECTORY:
        raise CorruptObjectError("the root is no directory")
    allowed = _LOCAL if local else _STORED
    for entry in part.entries:
        if entry.kind is Kind.FILE:
            _check_file(entry, allowed)
        else:
            _check_special(entry)
        if entry.mode > 0o7777:
            raise CorruptObjectError(f"{entry.path!r} has mode {entry.mode:#o}")
        if entry.xattrs:
            _check_xattrs(entry)
    _check_links(part.entries)


def check_tree(tree: Tree) -> None:
    """Raise CorruptObjectError unless a whole version is a tree: parents are directories, hard links are equal.

    Its entries come from parts that check_part has passed.
    """
    for path in tree:
        parent = tree.get(path.rpartition(b"/")[0])
        if path and (parent is None or parent.kind is not Kind.DIRECTORY):
            raise CorruptObjectError(f"{path!r} is an entry, and its parent is no directory of the same version")
    _check_links(tree.values())


def check_chunk(chunk: Chunk) -> None:
    """Raise CorruptObjectError unless a chunk, and its base, can be in a pack; the pack's key is not looked at."""
    if len(chunk.hash) != HASH_BYTES:
        raise CorruptObjectError(f"a chunk's hash of {len(chunk.hash)} bytes")
    check_frame_place(chunk.offset_bytes, chunk.stored_bytes, chunk.size_bytes)
    if chunk.base is not None:
        if chunk.base.base is not None:
            raise CorruptObjectError(f"chunk {chunk.hash.hex()} has a base that has a base itself")
        check_chunk(chunk.base)


def _check_paths(paths: Sequence[bytes]) -> None:
    if not all(map(lt, paths, islice(paths, 1, None))):
        first, second = next((a, b) for a, b in zip(paths, islice(paths, 1, None), strict=False) if not a < b)
        raise CorruptObjectError(f"path {second!r} follows {first!r}: not in order, or twice")
    named = paths[1:] if paths and not paths[0] else paths
    if max(map(len, paths), default=0) > MAX_PATH_BYTES:
        raise CorruptObjectError(f"a path of {max(map(len, paths))} bytes, above {MAX_PATH_BYTES}")
    if not _are_sound(named):
        unsound = next(path for path in named if not _are_sound([path]))
        raise CorruptObjectError(f"{unsound[:300]!r} cannot be a path in a mount")


def _are_sound(paths: Sequence[bytes]) -> bool:
    """Tell whether no path is absolute, has an empty, `.`, `..` or too long component, or a NUL.

    All paths are searched as one text, 7 times faster than one by one: "/" and NUL between two of them make every
    component stand between slashes, and show up as more NULs than there are gaps.
    """
    if not paths:
        return True
    text = b"/%b/" % b"/\0/".join(paths)
    if text.count(0) != len(paths) - 1 or b"//" in text or b"/./" in text or b"/../" in text:
        return False
    # a path that is short has no long component: mostly nothing is split
    long = (path for path in paths if len(path) > MAX_NAME_BYTES)
    return all(max(map(len, path.split(b"/"))) <= MAX_NAME_BYTES for path in long)


def _check_file(entry: Entry, allowed: frozenset[type]) -> None:
    if entry.target or entry.rdev:
        raise CorruptObjectError(f"{entry.path!r} is a file with a symlink's target or a device number")
    covered = 0
    for extent in entry.extents:
        if type(extent) not in allowed:
            raise CorruptObjectError(f"{entry.path!r} has a {type(extent).__name__} extent, which its part cannot hold")
        if extent.size_bytes < 1:
            raise CorruptObjectError(f"{entry.path!r} has an extent of {extent.size_bytes} bytes")
        covered += extent.size_bytes
    if covered != entry.size_bytes or covered > MAX_FILE_BYTES:
        raise CorruptObjectError(f"{entry.path!r} has {entry.size_bytes} bytes, and extents of {covered}")
    if allowed is _LOCAL:
        _check_local(entry)


def _check_local(entry: Entry) -> None:
    for extent in entry.extents:
        if isinstance(extent, ParentFile) and (not extent.path or not _are_sound([extent.path])):
            raise CorruptObjectError(f"{entry.path!r} is said to be {extent.path[:300]!r} of the version before")
        if isinstance(extent, (LocalData, ParentFile)) and len(entry.extents) > 1:
            raise CorruptObjectError(f"{entry.path!r} has a local extent that is not its only one")


def _check_special(entry: Entry) -> None:
    """What is no regular file."""
    if entry.extents or entry.torn:
        raise CorruptObjectError(f"{entry.path!r} is no file, but has extents or is torn")
    if entry.kind is Kind.SYMLINK:
        if not 0 < len(entry.target) <= MAX_TARGET_BYTES or b"\0" in entry.target:
            raise CorruptObjectError(f"{entry.path!r} is a symlink to {entry.target[:300]!r}")
    elif entry.target:
        raise CorruptObjectError(f"{entry.path!r} is no symlink, but has a target")
    if entry.size_bytes != len(entry.target):
        raise CorruptObjectError(f"{entry.path!r} is no file, but has {entry.size_bytes} bytes")
    if entry.rdev and (entry.kind not in _DEVICES or entry.rdev > MAX_RDEV):
        raise CorruptObjectError(f"{entry.path!r} has device number {entry.rdev}, and can have none such")
    if entry.kind is Kind.DIRECTORY and entry.link_id:
        raise CorruptObjectError(f"{entry.path!r} is a directory with a hard link")


def _check_xattrs(entry: Entry) -> None:
    last = b""
    for name, value in entry.xattrs:
        if len(name) > MAX_XATTR_NAME_BYTES or len(value) > MAX_XATTR_VALUE_BYTES:
            raise CorruptObjectError(f"{entry.path!r} has xattr {name[:300]!r} of {len(value)} bytes")
        # the empty name is below every other, so that it fails as the first one
        if name <= last or b"\0" in name:
            raise CorruptObjectError(f"{entry.path!r} has xattr {name[:300]!r} after {last[:300]!r}")
        last = name


def _check_links(entries: Iterable[Entry]) -> None:
    first: dict[int, Entry] = {}
    for entry in entries:
        if entry.link_id:
            other = first.setdefault(entry.link_id, entry)
            if other is not entry and _inode(other) != _inode(entry):
                raise CorruptObjectError(f"{entry.path!r} and {other.path!r} are one inode, but differ")
