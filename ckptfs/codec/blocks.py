"""The payload of codec 2: blocks of a chunk, each encoded in the way that suits it, and back. Pure.

Layout: docs/FORMAT.md section 5.2; change both in one commit. A decoder allocates for a block what the block holds, and
raises CorruptObjectError for whatever is not laid out as there.

Invariants:
    B1  before a block is handed out, all that zstd made of it is decoded and compared: zstd searches, guesses and keeps
        state, and faults of it have cost others data; and for each way of making planes that a chunk has, one block's
        numbers are made of them again
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptfs.codec.coded_planes import (
    SLACK_BYTES,
    CodedPlanes,
    Header,
    decode_planes,
    encode_planes,
    numbers_come_back,
    planes_come_back,
    take,
)
from ckptfs.codec.planes import Prediction
from ckptfs.codec.scratch import Buffer, borrow, is_same
from ckptfs.codec.ways import (
    BLOCK_BYTES,
    MIN_SAVING,
    ZSTD_LEVEL,
    Way,
    base_gain,
    block_of,
    block_starts,
    choose_ways,
    is_repeated,
)
from ckptfs.codec.zstd import compress, decompress
from ckptfs.errors import CorruptObjectError

Bytes = NDArray[np.uint8]

_HEADER = struct.Struct("<BBBBI")
"""method, prediction, stride, head, and stored length (ZSTD) or bits of the ratio (PLANES)"""


_NOTHING = 0.01
"""A block that takes less has one value, and may be between floats as well as between pages of a database."""


class Method(IntEnum):
    """How a block is stored."""

    STORED = 0
    ZSTD = 1
    SAME = 2
    """It is that of the base."""
    PLANES = 3


class EncodedBlocks(NamedTuple):
    """What blocks became."""

    pieces: list[Buffer]
    """The payload in order; valid until this thread encodes again."""
    uses_base: bool
    float_share: float
    """Of the blocks that changed and are not zeros: those that planes make smaller than zstd does without a base,
    being no text and no records."""
    is_repeated: bool
    """Some numbers occur in the chunk more than once, which planes do not see."""


def encode_blocks(plain: Buffer, base: Buffer | None, min_gain: float) -> EncodedBlocks | None:
    """Encode a chunk block by block.

    Args:
        plain: The chunk.
        base: The base chunk's bytes, of any length.
        min_gain: The least share of the chunk's size without it that the base must save, as far as samples tell.

    Returns:
        None where no block is better off with planes or its base than with zstd for all of the chunk.

    Raises:
        CorruptObjectError: A block does not decode to what was encoded (B1).
    """
    chunk = np.frombuffer(plain, np.uint8)
    base_chunk = None if base is None else np.frombuffer(base, np.uint8)
    ways = list(choose_ways(chunk, base_chunk))
    if base_chunk is not None and base_gain(ways, len(chunk)) < min_gain:
        base_chunk = None
        ways = list(choose_ways(chunk, None))
    if all(way.plan is None and not way.is_same for way in ways):
        return None
    telling = [way for way in ways if not way.is_same and (way.plan is None or way.plan.fresh_ratio > _NOTHING)]
    area = borrow("planes", len(chunk) + len(ways) * SLACK_BYTES)
    blocks: list[_EncodedBlock] = []
    checked: set[bytes] = set()
    for index, (start, way) in enumerate(zip(block_starts(chunk), ways, strict=True)):
        block = chunk[start : start + BLOCK_BYTES]
        place = area[start + index * SLACK_BYTES :][: len(block) + SLACK_BYTES]
        before = block_of(base_chunk, start, len(block))
        encoded = _encode_block(block, before, way, place)
        if not _comes_back(encoded, block, before, checked):
            raise CorruptObjectError(f"a block of {len(block)} bytes does not decode to what was encoded")
        blocks.append(encoded)
    return EncodedBlocks(
        [piece for block in blocks for piece in (block.header, *block.pieces)],
        any(block.uses_base for block in blocks),
        sum(way.is_float for way in telling) / len(telling) if telling else 1.0,
        is_repeated(chunk),
    )


class _EncodedBlock(NamedTuple):
    header: bytes
    pieces: list[Buffer]
    uses_base: bool = False
    planes: CodedPlanes | None = None
    zstd: bytes | None = None


def _encode_block(block: Bytes, base: Bytes | None, way: Way, area: Bytes) -> _EncodedBlock:
    if way.is_same:
        return _EncodedBlock(_HEADER.pack(Method.SAME, 0, 0, 0, 0), [], True)
    best = _EncodedBlock(_HEADER.pack(Method.STORED, 0, 0, 0, 0), [block.data])
    most = len(block) * (1 - MIN_SAVING) - _HEADER.size
    if way.plan is not None:
        planes = encode_planes(block, base, way.plan, area)
        size = planes.size_bytes
        if size <= most:
            prediction, stride, head, _ = planes.header
            header = _HEADER.pack(Method.PLANES, prediction, stride, head, planes.header.ratio_bits)
            best, most = _EncodedBlock(header, planes.pieces, prediction.needs_base, planes=planes), size
    if way.tries_zstd:
        stored = compress(block.data, ZSTD_LEVEL)
        if len(stored) < most:
            best = _EncodedBlock(_HEADER.pack(Method.ZSTD, 0, 0, 0, len(stored)), [stored], zstd=stored)
    return best


def _comes_back(encoded: _EncodedBlock, block: Bytes, base: Bytes | None, checked: set[bytes]) -> bool:
    """Tell whether a block decodes to what it was (B1).

    Args:
        encoded: What it became.
        block: What it was.
        base: Of the block.
        checked: Headers of blocks whose numbers have come back; added to.
    """
    if encoded.zstd is not None:
        return is_same(decompress(encoded.zstd, max_bytes=len(block)), block)
    if encoded.planes is None:
        return True
    if encoded.header not in checked:
        if not numbers_come_back(encoded.planes, block, base):
            return False
        checked.add(encoded.header)
    return planes_come_back(encoded.planes)


def decode_blocks(payload: memoryview, base: Buffer | None, out: Bytes) -> None:
    """Write the chunk to `out`, of the chunk's length, aligned to 8.

    Raises:
        CorruptObjectError: The payload is not that of a chunk of this length.
    """
    offset = 0
    base_bytes = None if base is None else np.frombuffer(base, np.uint8)
    for start in block_starts(out):
        block = out[start : start + BLOCK_BYTES]
        offset = _decode_block(payload, offset, block_of(base_bytes, start, len(block)), block)
    if offset != len(payload):
        raise CorruptObjectError(f"a payload of {len(payload)} bytes, of which the blocks take {offset}")


def _decode_block(payload: memoryview, offset: int, base: Bytes | None, block: Bytes) -> int:
    """Write one block to `block`, and return where the next begins."""
    method, prediction, stride, head, length = _HEADER.unpack(take(payload, offset, _HEADER.size))
    offset += _HEADER.size
    if method == Method.PLANES and prediction <= Prediction.RATIO:
        (ratio,) = struct.unpack("<f", struct.pack("<I", length))
        return offset + decode_planes(
            payload[offset:], Header(Prediction(prediction), stride, head, ratio), base, block
        )
    if prediction or stride or head or (length and method != Method.ZSTD):
        raise CorruptObjectError(f"a block of method {method} with what only other methods have")
    if method == Method.STORED:
        block[:] = np.frombuffer(take(payload, offset, len(block)), np.uint8)
        return offset + len(block)
    if method == Method.ZSTD:
        data = decompress(take(payload, offset, length), max_bytes=len(block))
        if len(data) != len(block):
            raise CorruptObjectError(f"a block of {len(data)} bytes, where {len(block)} are expected")
        block[:] = np.frombuffer(data, np.uint8)
        return offset + int(length)
    if method == Method.SAME and base is not None:
        block[:] = base
        return offset
    raise CorruptObjectError(f"a block of method {method} and {'no' if base is None else 'a'} base")
