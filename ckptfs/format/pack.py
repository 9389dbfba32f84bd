"""Packs: frames in one object, between a header and a table from which an index can be rebuilt.

Pure. Layout: docs/FORMAT.md section 5; change both in one commit.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ckptfs.errors import CorruptObjectError
from ckptfs.format.header import FORMAT_VERSION, require_version
from ckptfs.hashing import HASH_BYTES, hash_bytes

MAX_PACK_BYTES = 1 << 30
MAX_CHUNK_BYTES = 64 << 20
"""Plain length of one chunk."""
FRAME_HEADER_BYTES = 12
MAX_FRAME_EXTRA_BYTES = FRAME_HEADER_BYTES + 0xFFFF
"""By how much a frame can exceed its chunk: header and parameters; a payload that did not shrink is stored raw."""

_MAGIC = b"ckptfsP1"
_END_MAGIC = b"ckptfsPT"
HEADER = struct.Struct("<8sH6s")
"""magic, format version, reserved"""
_ROW = struct.Struct("<32sIII")
"""hash, offset, stored length, raw length"""
_FOOTER = struct.Struct("<II32s8s")
"""number of rows, reserved, hash of the rows, magic"""
FOOTER_BYTES = _FOOTER.size


class PackRow(NamedTuple):
    """One frame of a pack."""

    digest: bytes
    """Hash of the chunk's plain bytes."""
    offset_bytes: int
    """Of the frame in the pack."""
    stored_bytes: int
    """Of the whole frame."""
    raw_bytes: int
    """Plain length."""


def check_frame_place(offset_bytes: int, stored_bytes: int, raw_bytes: int) -> None:
    """Raise CorruptObjectError unless a pack can hold a frame of these lengths there."""
    if not 1 <= raw_bytes <= MAX_CHUNK_BYTES:
        raise CorruptObjectError(f"a chunk of {raw_bytes} bytes: not from 1 to {MAX_CHUNK_BYTES}")
    if not FRAME_HEADER_BYTES < stored_bytes <= raw_bytes + MAX_FRAME_EXTRA_BYTES:
        raise CorruptObjectError(f"a chunk of {raw_bytes} bytes in a frame of {stored_bytes}")
    if not HEADER.size <= offset_bytes <= MAX_PACK_BYTES - stored_bytes:
        raise CorruptObjectError(f"a frame of {stored_bytes} bytes at {offset_bytes} of a pack")


class PackBuilder:
    """A pack that is being filled; holds its frames in memory."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = [HEADER.pack(_MAGIC, FORMAT_VERSION, b"")]
        self._rows: list[bytes] = []
        self._end = HEADER.size

    def __len__(self) -> int:
        """The number of frames."""
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """The size of the pack if it were finished now."""
        return self._end + len(self._rows) * _ROW.size + _FOOTER.size

    def add(self, frame: bytes, digest: bytes, raw_bytes: int) -> int:
        """Append a frame.

        Args:
            frame: The whole frame (FORMAT.md 5.1).
            digest: Hash of the chunk's plain bytes.
            raw_bytes: Their length.

        Returns:
            The frame's offset in the pack.

        Raises:
            CorruptObjectError: The lengths cannot be those of a frame, or the pack would exceed MAX_PACK_BYTES.
        """
        offset = self._end
        check_frame_place(offset, len(frame), raw_bytes)
        if len(digest) != HASH_BYTES:
            raise CorruptObjectError(f"a hash of {len(digest)} bytes")
        if self.size_bytes + len(frame) + _ROW.size > MAX_PACK_BYTES:
            raise CorruptObjectError(f"a pack of more than {MAX_PACK_BYTES} bytes")
        self._pieces.append(frame)
        self._rows.append(_ROW.pack(digest, offset, len(frame), raw_bytes))
        self._end += len(frame)
        return offset

    def finish(self) -> bytes:
        """Return the bytes of the pack."""
        rows = b"".join(self._rows)
        footer = _FOOTER.pack(len(self._rows), 0, hash_bytes(rows), _END_MAGIC)
        return b"".join((*self._pieces, rows, footer))


def decode_trailer(data: bytes | memoryview) -> list[PackRow]:
    """Return the table of a pack.

    Args:
        data: The whole pack, or its last bytes, from the table's beginning or earlier.

    Raises:
        UnsupportedFormatError: A newer ckptfs wrote the pack, as far as its header is there to tell.
        CorruptObjectError: The bytes do not end as a pack does, or do not reach back to the table's beginning.
    """
    rows_end = len(data) - _FOOTER.size
    if rows_end < 0:
        raise CorruptObjectError(f"a pack that ends after {len(data)} bytes")
    count, _, digest, magic = _FOOTER.unpack_from(data, rows_end)
    if magic != _END_MAGIC:
        raise CorruptObjectError(f"a pack that ends with {magic!r}, not {_END_MAGIC!r}")
    rows_start = rows_end - count * _ROW.size
    if rows_start < 0:
        raise CorruptObjectError(f"a pack's table of {count} rows in its last {len(data)} bytes")
    table = memoryview(data)[rows_start:rows_end]
    if hash_bytes(table) != digest:
        raise CorruptObjectError("a pack's table does not hash to what it says")
    rows = [PackRow._make(row) for row in _ROW.iter_unpack(table)]
    end = HEADER.size
    for row in rows:
        check_frame_place(row.offset_bytes, row.stored_bytes, row.raw_bytes)
        if row.offset_bytes != end:
            raise CorruptObjectError(f"a pack's frame at {row.offset_bytes} follows one that ends at {end}")
        end += row.stored_bytes
    if rows_start > end:
        raise CorruptObjectError(f"a pack's frames end at {end}, and its table begins at {rows_start}")
    if rows_start == end:
        check_header(data)
    return rows


def table_bytes(table: bytes | Sequence[PackRow]) -> int:
    """Return the size of a pack's table with its footer, given its rows, or the footer's bytes.

    Raises:
        CorruptObjectError: The bytes are not those of a footer.
    """
    if not isinstance(table, bytes):
        return len(table) * _ROW.size + _FOOTER.size
    count, _, _, magic = _FOOTER.unpack(table)
    if magic != _END_MAGIC:
        raise CorruptObjectError(f"a pack that ends with {magic!r}, not {_END_MAGIC!r}")
    return int(count) * _ROW.size + _FOOTER.size


def check_header(data: bytes | memoryview) -> None:
    """Raise CorruptObjectError or UnsupportedFormatError unless bytes begin as a pack of this version does."""
    magic, version, _ = HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptObjectError(f"a pack that begins with {magic!r}, not {_MAGIC!r}")
    require_version(version, "the pack")
