"""Manifest parts: sorted entries and tombstones, as bytes.

Pure. Layout: docs/FORMAT.md section 4 (and 7 for local parts); change both in one commit. Bytes here are raw: parts of
a store are compressed by the caller.

A decoder works through the tables in their order only after their lengths, as the header counts them, are exactly the
length of the data: nothing is allocated for numbers that the data do not back.
"""

import gc
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

from ckptfs.errors import CorruptObjectError
from ckptfs.format.commit import MAX_PART_BYTES
from ckptfs.format.header import FORMAT_VERSION, require_version
from ckptfs.format.keys import pack_key, split_pack_key
from ckptfs.format.manifest import Chunk, Entry, Extent, Hole, Kind, LocalData, ParentFile, Part
from ckptfs.format.pack import check_frame_place
from ckptfs.format.rules import check_chunk, check_part

_MAGIC = b"ckptfsM1"
_LOCAL = 1
"""Flag of a part."""
_TORN = 1
"""Flag of an entry."""
_NONE = 0xFFFFFFFF
"""In place of a chunk's index: a hole; no base."""
_LOCAL_DATA = 0xFFFFFFFE
_PARENT_FILE = 0xFFFFFFFD
_MAX_INDEX = _PARENT_FILE - 1
_EPOCH_BYTES = 5

_HEADER = struct.Struct("<8sHHIIIIIIQ")
"""magic, format version, flags, counts of entries, tombstones, extents, chunks, packs, xattrs, heap_bytes"""
_ENTRY = struct.Struct("<HBBIIIqQQQIHH")
"""path_bytes, kind, flags, mode, uid, gid, mtime, size, link id, rdev, extents, target_bytes, xattrs"""
_TOMBSTONE = struct.Struct("<H")
"""path_bytes"""
_EXTENT = struct.Struct("<QI")
"""length, chunk index"""
_CHUNK = struct.Struct("<32sIIIII")
"""hash, pack index, offset, stored length, raw length, base index"""
_PACK = struct.Struct("<5s16s")
"""epoch, id"""
_XATTR = struct.Struct("<HI")
"""name_bytes, value_bytes"""
_LOCAL_ROW = struct.Struct("<Q")
"""data index, or path_bytes"""

_TABLES = (_ENTRY, _TOMBSTONE, _EXTENT, _CHUNK, _PACK, _XATTR)
# what the __init__ of a frozen class does in 3.2 us an entry takes 1.2 us through its slots: a third of all decoding
_ENTRY_SETTERS = [getattr(Entry, item.name).__set__ for item in fields(Entry)]
_KINDS = {int(kind): kind for kind in Kind}


def encode_part(part: Part, *, local: bool = False) -> bytes:
    """Return the raw bytes of a part. Equal parts give equal bytes.

    Args:
        part: Its value.
        local: True for the part of a pending version, which may have local extents.

    Raises:
        CorruptObjectError: The value breaks a rule of the format, or does not fit it.
    """
    check_part(part, local=local)
    writer = _Writer()
    for entry in part.entries:
        try:
            writer.add(entry)
        except struct.error as error:
            raise CorruptObjectError(f"entry {entry.path[:300]!r} does not fit the format: {error}") from error
    return writer.finish(part.tombstones, local)


class _Writer:
    """The tables of a part that is being encoded.

    Each is one buffer: rows of their own, and joining them, would take 0.5 KB more for each entry.
    """

    def __init__(self) -> None:
        self._entries = bytearray()
        self._extents = bytearray()
        self._chunks = bytearray()
        self._packs = bytearray()
        self._xattrs = bytearray()
        self._local_rows = bytearray()
        self._heap = bytearray()
        self._parent_paths = bytearray()
        self._chunk_index: dict[Chunk, int] = {}
        self._pack_index: dict[str, int] = {}

    def add(self, entry: Entry) -> None:
        path, target, xattrs, extents = entry.path, entry.target, entry.xattrs, entry.extents
        self._entries += _ENTRY.pack(
            len(path),
            entry.kind,
            _TORN if entry.torn else 0,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            entry.size_bytes,
            entry.link_id,
            entry.rdev,
            len(extents),
            len(target),
            len(xattrs),
        )
        self._heap += path
        self._heap += target
        for extent in extents:
            self._extents += _EXTENT.pack(extent.size_bytes, self._index(extent))
        for name, value in xattrs:
            self._xattrs += _XATTR.pack(len(name), len(value))
            self._heap += name
            self._heap += value

    def _index(self, extent: Extent) -> int:
        if isinstance(extent, Chunk):
            index = self._chunk_index.get(extent)
            return self._add_chunk(extent) if index is None else index
        if isinstance(extent, LocalData):
            self._local_rows += _LOCAL_ROW.pack(extent.index)
            return _LOCAL_DATA
        if isinstance(extent, ParentFile):
            self._local_rows += _LOCAL_ROW.pack(len(extent.path))
            self._parent_paths += extent.path
            return _PARENT_FILE
        return _NONE

    def _add_chunk(self, chunk: Chunk) -> int:
        check_chunk(chunk)
        base = _NONE if chunk.base is None else self._index(chunk.base)
        pack = self._pack_index.get(chunk.pack)
        if pack is None:
            epoch, pack_id = split_pack_key(chunk.pack)
            pack = self._pack_index[chunk.pack] = len(self._pack_index)
            self._packs += _PACK.pack(epoch.to_bytes(_EPOCH_BYTES, "little"), pack_id)
        index = self._chunk_index[chunk] = len(self._chunk_index)
        if index > _MAX_INDEX:
            raise CorruptObjectError(f"a part of more than {_MAX_INDEX} chunks")
        self._chunks += _CHUNK.pack(chunk.hash, pack, chunk.offset_bytes, chunk.stored_bytes, chunk.size_bytes, base)
        return index

    def finish(self, tombstones: Sequence[bytes], local: bool) -> bytes:
        lengths = bytearray()
        for path in tombstones:
            lengths += _TOMBSTONE.pack(len(path))
            self._heap += path
        self._heap += self._parent_paths
        tables = (self._entries, lengths, self._extents, self._chunks, self._packs, self._xattrs)
        counts = [len(table) // row.size for table, row in zip(tables, _TABLES, strict=True)]
        size = _HEADER.size + sum(map(len, tables)) + len(self._local_rows) + len(self._heap)
        if size > MAX_PART_BYTES:
            raise CorruptObjectError(f"a manifest part of {size} bytes, above {MAX_PART_BYTES}")
        header = _HEADER.pack(_MAGIC, FORMAT_VERSION, _LOCAL if local else 0, *counts, len(self._heap))
        return b"".join((header, *tables, self._local_rows, self._heap))


class _Tables(NamedTuple):
    """The tables of a part that is being decoded, each as long as its count says."""

    entries: memoryview
    tombstones: memoryview
    extents: memoryview
    chunks: memoryview
    packs: memoryview
    xattrs: memoryview
    local_rows: memoryview
    heap: bytes


def decode_part(data: bytes, *, local: bool = False) -> Part:
    """Return the part that raw bytes hold.

    Args:
        data: The whole part, not compressed.
        local: True for the part of a pending version.

    Raises:
        UnsupportedFormatError: A newer ckptfs wrote it.
        CorruptObjectError: The bytes are not such a part.
    """
    with _collector_paused():
        part = _decode(_split(data, local))
    check_part(part, local=local)
    return part


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from going through the new values again and again: none of them is garbage.

    100,000 entries of one chunk decode in 0.50 s like this, in 0.75 s with the collector at work.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _decode(tables: _Tables) -> Part:
    parent_paths = _parent_paths(tables)
    entries, position = _entries(tables, _extents(tables, _chunks(tables), parent_paths))
    tombstones = []
    for (size,) in _TOMBSTONE.iter_unpack(tables.tombstones):
        tombstones.append(tables.heap[position : position + size])
        position += size
    if position + sum(map(len, parent_paths)) != len(tables.heap):
        raise CorruptObjectError("a manifest part's names and values are not as long as its heap")
    return Part(tuple(entries), tuple(tombstones))


def _split(data: bytes, local: bool) -> _Tables:
    if not _HEADER.size <= len(data) <= MAX_PART_BYTES:
        raise CorruptObjectError(f"a manifest part of {len(data)} bytes")
    magic, version, flags, *counts, heap_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptObjectError(f"a manifest part that begins with {magic!r}, not {_MAGIC!r}")
    require_version(version, "the manifest part")
    if flags != (_LOCAL if local else 0):
        raise CorruptObjectError(f"a manifest part with flags {flags:#x}, where it should be {_name(local)}")
    view = memoryview(data)
    tables: list[memoryview] = []
    position = _HEADER.size
    for count, row in zip(counts, _TABLES, strict=True):
        tables.append(view[position : position + count * row.size])
        position += count * row.size
        # at once: extents are iterated next, and slices past the end are short
        if position > len(data):
            raise CorruptObjectError(f"a manifest part of {len(data)} bytes, whose tables would end at {position}")
    entries, tombstones, extents, chunks, packs, xattrs = tables
    heap_start = position
    if local:
        heap_start += sum(1 for _ in _local_indexes(extents)) * _LOCAL_ROW.size
    if heap_start + heap_bytes != len(data):
        raise CorruptObjectError(f"a manifest part of {len(data)} bytes, not {heap_start + heap_bytes}")
    return _Tables(entries, tombstones, extents, chunks, packs, xattrs, view[position:heap_start], data[heap_start:])


def _name(local: bool) -> str:
    return "local" if local else "stored"


def _chunks(tables: _Tables) -> list[Chunk]:
    packs = [pack_key(int.from_bytes(epoch, "little"), pack_id) for epoch, pack_id in _PACK.iter_unpack(tables.packs)]
    pack_count = len(packs)
    chunks: list[Chunk] = []
    based: list[tuple[int, int]] = []
    for digest, pack, offset, stored, size, base in _CHUNK.iter_unpack(tables.chunks):
        if pack >= pack_count:
            raise CorruptObjectError(f"a chunk in pack {pack} of {pack_count}")
        if base != _NONE:
            based.append((len(chunks), base))
        check_frame_place(offset, stored, size)
        chunks.append(Chunk(digest, size, packs[pack], offset, stored))
    without_base = set(range(len(chunks))).difference(index for index, _ in based) if based else set()
    for index, base in based:
        if base not in without_base:
            raise CorruptObjectError(f"chunk {index} is encoded against {base}, which is none or has a base itself")
        chunks[index] = chunks[index]._replace(base=chunks[base])
    return chunks


def _parent_paths(tables: _Tables) -> list[bytes]:
    """The paths of the ParentFile extents, in their order: they are the heap's end."""
    rows = zip(_local_indexes(tables.extents), _LOCAL_ROW.iter_unpack(tables.local_rows), strict=False)
    sizes = [size for index, (size,) in rows if index == _PARENT_FILE]
    position = len(tables.heap) - sum(sizes)
    if position < 0:
        raise CorruptObjectError("a manifest part's parent paths are longer than its heap")
    paths = []
    for size in sizes:
        paths.append(tables.heap[position : position + size])
        position += size
    return paths


def _local_indexes(extents: memoryview) -> Iterator[int]:
    return (index for _, index in _EXTENT.iter_unpack(extents) if index in (_LOCAL_DATA, _PARENT_FILE))


def _extents(tables: _Tables, chunks: list[Chunk], parent_paths: list[bytes]) -> list[Extent]:
    count = len(chunks)
    local_rows = _LOCAL_ROW.iter_unpack(tables.local_rows)
    remaining_paths = iter(parent_paths)
    extents: list[Extent] = []
    for size, index in _EXTENT.iter_unpack(tables.extents):
        if index < count:
            chunk = chunks[index]
            if chunk.size_bytes != size:
                raise CorruptObjectError(f"a range of {size} bytes with a chunk of {chunk.size_bytes}")
            extents.append(chunk)
        elif index == _NONE:
            extents.append(Hole(size))
        elif index == _LOCAL_DATA and tables.local_rows:
            extents.append(LocalData(size, next(local_rows)[0]))
        elif index == _PARENT_FILE and tables.local_rows:
            next(local_rows)
            extents.append(ParentFile(size, next(remaining_paths)))
        else:
            raise CorruptObjectError(f"an extent with chunk {index} of {count}")
    return extents


def _xattrs(
    rows: Iterator[tuple[Any, ...]], count: int, heap: bytes, position: int
) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    """Return the next `count` xattrs, which the rows are known to hold, and where in the heap they end."""
    xattrs = []
    for name_bytes, value_bytes in islice(rows, count):
        name_end = position + name_bytes
        position = name_end + value_bytes
        xattrs.append((heap[name_end - name_bytes : name_end], heap[name_end:position]))
    return tuple(xattrs), position


def _entries(tables: _Tables, extents: list[Extent]) -> tuple[list[Entry], int]:
    """Return the entries, and where in the heap their names and values end."""
    heap = tables.heap
    new_entry = object.__new__
    (
        set_path, set_kind, set_mode, set_uid, set_gid, set_mtime_ns, set_size_bytes,
        set_link_id, set_rdev, set_target, set_xattrs, set_extents, set_torn,
    ) = _ENTRY_SETTERS  # fmt: skip
    xattr_rows = _XATTR.iter_unpack(tables.xattrs)
    xattrs_left = len(tables.xattrs) // _XATTR.size
    position = extent = 0
    entries: list[Entry] = []
    for (
        path_bytes, kind, flags, mode, uid, gid, mtime_ns, size_bytes,
        link_id, rdev, extent_count, target_bytes, xattr_count,
    ) in _ENTRY.iter_unpack(tables.entries):  # fmt: skip
        if kind not in _KINDS or flags > _TORN:
            raise CorruptObjectError(f"an entry of kind {kind} with flags {flags:#x}")
        path_end = position + path_bytes
        path = heap[position:path_end]
        position = path_end + target_bytes
        target = heap[path_end:position] if target_bytes else b""
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if xattr_count:
            xattrs_left -= xattr_count
            if xattrs_left < 0:
                break
            xattrs, position = _xattrs(xattr_rows, xattr_count, heap, position)
        entry = new_entry(Entry)
        set_path(entry, path)
        set_kind(entry, _KINDS[kind])
        set_mode(entry, mode)
        set_uid(entry, uid)
        set_gid(entry, gid)
        set_mtime_ns(entry, mtime_ns)
        set_size_bytes(entry, size_bytes)
        set_link_id(entry, link_id)
        set_rdev(entry, rdev)
        set_target(entry, target)
        set_xattrs(entry, xattrs)
        set_extents(entry, tuple(extents[extent : extent + extent_count]) if extent_count else ())
        set_torn(entry, flags == _TORN)
        entries.append(entry)
        extent += extent_count
    if xattrs_left or extent != len(extents):
        raise CorruptObjectError("a manifest part's entries have other numbers of extents or xattrs than its tables")
    return entries, position
