"""Planning the manifest of a new version: which parts of the version before serve on, and what is written anew.

A version's tree is the merge of its parts (FORMAT.md 3.1), so a save that changes little writes little: a new part on
top of those of the version before. Reading costs a request for each part and the bytes of all, so now and then the
whole tree is written as a new base (docs/adr/0002).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ckptfs.codec.zstd import compress
from ckptfs.format.commit import CommitRecord, PartRef
from ckptfs.format.manifest import Chunk, Entry, Part, Tree
from ckptfs.format.part import encode_part
from ckptfs.format.rules import check_tree
from ckptfs.hashing import hash_bytes

MAX_INLINE_BYTES = 1 << 20
"""Stored, of all inline parts of a record (FORMAT.md 3.1)."""
MAX_SEGMENT_BYTES = 8 << 20
"""Raw, of one part that is a segment, unless a single entry exceeds it (FORMAT.md 3.1)."""

_SMALL_BYTES = 64 << 10
"""Raw. A whole tree below this is written each time: it stores in about 20 KiB, and is then read with its record."""
_MAX_PARTS = 4
"""Of a tree of less than 1 MiB raw: 4 requests are still one round of parallel reads."""
_MAX_MORE_PARTS = 32
"""A larger tree may have one more part for each MiB, as writing it anew costs more; up to this."""

# of the tables of FORMAT.md 4
_HEADER_BYTES = 44
_ENTRY_BYTES = 56
_TOMBSTONE_BYTES = 2
_EXTENT_BYTES = 12
_CHUNK_BYTES = 52
_PACK_BYTES = 21
_XATTR_BYTES = 6


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part as it is stored, before it has a place."""

    stored: bytes
    raw_bytes: int
    entries: int
    tombstones: int


def plan_parts(
    previous: CommitRecord | None, change: Part, whole: Callable[[], Tree], put_segment: Callable[[bytes], str]
) -> tuple[tuple[PartRef, ...], bytes]:
    """Return the parts of a new version's record, and the record's inline bytes.

    Args:
        previous: The save record of the version before, None for the first.
        change: What differs from the version before; extents are chunks and holes.
        whole: Returns the whole tree of the new version; called only if it is to be written.
        put_segment: Writes a segment to the store and returns its key; called once for each.

    Raises:
        CorruptObjectError: The change or the whole breaks a rule of the format.
    """
    kept = tuple(_carried(ref, previous.seq) for ref in previous.parts) if previous is not None else ()
    if kept and not change.entries and not change.tombstones:
        return kept, b""
    if kept:
        pieces = _pieces(change)
        if not _is_base_due([*kept, *pieces]):
            refs, inline = _place(pieces, put_segment)
            return kept + refs, inline
    tree = whole()
    check_tree(tree)
    return _place(_pieces(Part(tuple(tree.values()))), put_segment)


def _carried(ref: PartRef, seq: int) -> PartRef:
    """Return how a later record names a part of record `seq`. It points to the bytes, never to another reference."""
    return replace(ref, at="commit", seq=seq) if ref.at == "inline" else ref


def _is_base_due(parts: Sequence[PartRef | _Piece]) -> bool:
    """Tell whether the whole tree is to be written instead of the last of these parts."""
    total = sum(part.raw_bytes for part in parts)
    segments = -(-total // MAX_SEGMENT_BYTES)
    if total < _SMALL_BYTES or len(parts) > _MAX_PARTS + segments - 1 + min(total >> 20, _MAX_MORE_PARTS):
        return True
    # a base is cut where the next entry does not fit, so all its parts but the last are about full
    base = 1
    while base < len(parts) and parts[base - 1].raw_bytes > MAX_SEGMENT_BYTES // 2 and not parts[base].tombstones:
        base += 1
    return 2 * sum(part.raw_bytes for part in parts[base:]) > total


def _pieces(part: Part) -> list[_Piece]:
    pieces = []
    for cut in _cut(part):
        raw = encode_part(cut)
        pieces.append(_Piece(compress(raw), len(raw), len(cut.entries), len(cut.tombstones)))
    return pieces


def _place(pieces: Sequence[_Piece], put_segment: Callable[[bytes], str]) -> tuple[tuple[PartRef, ...], bytes]:
    """Put all pieces into the record if they fit there, else each into a segment."""
    fits = sum(len(piece.stored) for piece in pieces) <= MAX_INLINE_BYTES
    refs = []
    offset = 0
    for piece in pieces:
        ref = PartRef(
            at="inline" if fits else "segment",
            offset=offset if fits else 0,
            stored_bytes=len(piece.stored),
            raw_bytes=piece.raw_bytes,
            entries=piece.entries,
            tombstones=piece.tombstones,
            digest=hash_bytes(piece.stored),
            key="" if fits else put_segment(piece.stored),
        )
        offset += ref.stored_bytes
        refs.append(ref)
    return tuple(refs), b"".join(piece.stored for piece in pieces) if fits else b""


def _cut(part: Part) -> Iterator[Part]:
    """Yield the part in pieces of at most MAX_SEGMENT_BYTES raw, or of one entry. They can be merged in any order."""
    meter = _Meter()
    entries: list[Entry] = []
    for entry in part.entries:
        if meter.add_entry(entry) > MAX_SEGMENT_BYTES and entries:
            yield Part(tuple(entries))
            entries, meter = [], _Meter()
            meter.add_entry(entry)
        entries.append(entry)
    tombstones: list[bytes] = []
    for path in part.tombstones:
        if meter.add_tombstone(path) > MAX_SEGMENT_BYTES:
            yield Part(tuple(entries), tuple(tombstones))
            entries, tombstones, meter = [], [], _Meter()
            meter.add_tombstone(path)
        tombstones.append(path)
    if entries or tombstones:
        yield Part(tuple(entries), tuple(tombstones))


class _Meter:
    """The raw size of a part that grows (FORMAT.md 4)."""

    def __init__(self) -> None:
        self._size_bytes = _HEADER_BYTES
        self._chunks: set[Chunk] = set()
        self._packs: set[str] = set()

    def add_entry(self, entry: Entry) -> int:
        """Return the size with one more entry."""
        size = _ENTRY_BYTES + len(entry.path) + len(entry.target) + _EXTENT_BYTES * len(entry.extents)
        size += sum(_XATTR_BYTES + len(name) + len(value) for name, value in entry.xattrs)
        for extent in entry.extents:
            if isinstance(extent, Chunk):
                size += self._add_chunk(extent)
        self._size_bytes += size
        return self._size_bytes

    def add_tombstone(self, path: bytes) -> int:
        """Return the size with one more tombstone."""
        self._size_bytes += _TOMBSTONE_BYTES + len(path)
        return self._size_bytes

    def _add_chunk(self, chunk: Chunk) -> int:
        if chunk in self._chunks:
            return 0
        size = self._add_chunk(chunk.base) if chunk.base is not None else 0
        self._chunks.add(chunk)
        if chunk.pack not in self._packs:
            self._packs.add(chunk.pack)
            size += _PACK_BYTES
        return size + _CHUNK_BYTES
