"""The payload of codec 2: blocks of a chunk, each encoded in the way that suits it, and back. Pure.

Layout: docs/FORMAT.md section 5.2; change both in one commit. A decoder allocates for a block what the block holds, and
raises CorruptObjectError for whatever is not laid out as there.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptfs.codec.plan import MIN_BLOCK_BYTES, RAW_BITS, Plan, choose_plan
from ckptfs.codec.planes import UNSIGNED, Numbers, Prediction, are_planes, can_scale, join, predict, split, unpredict
from ckptfs.codec.scratch import Buffer, borrow, borrow_as, is_same
from ckptfs.codec.zstd import compress, compress_plane, decompress
from ckptfs.errors import CorruptObjectError

Bytes = NDArray[np.uint8]

BLOCK_BYTES = 1 << 20

_HEADER = struct.Struct("<BBBBI")
"""method, prediction, stride, head, and stored length (ZSTD) or bits of the ratio (PLANES)"""
_ROW = struct.Struct("<BBHI")
"""width, coder, reserved, stored length"""

_LOOK_EVERY = 8
"""Blocks after which all strides are looked at again: a stride kept for a whole file cost 6 points on mixed ones."""
_SEARCH_BITS = 0.7
"""Below it a plane is mostly one value, and matches save more than a code of at least one bit per byte."""
_PROBE_NUMBERS = 4
_SLACK_BYTES = 64
"""Per block, for planes that begin at multiples of 8."""

_ZSTD_LEVEL = 3
_MIN_SAVING = 0.03
_PIECES = 2
_PIECE_BYTES = 4 << 10
_LONG_PIECE_BYTES = 64 << 10
# what zstd makes of a piece is more than it makes of a block, and more so the more is repeated: text of 40 % in 4 KiB
# is 30 % in 64 KiB; floats lose nothing by being cut
_FAR_BELOW = 0.8
_LITTLE_REPEATED = 0.88
_BELOW = 0.97
_BELOW_LONG = 0.9
_NEAR = 1.05
_SAME_DATA = 0.03
"""Blocks whose planes have about the same entropy as those before are the same kind of data."""


class Method(IntEnum):
    """How a block is stored."""

    STORED = 0
    ZSTD = 1
    SAME = 2
    """It is that of the base."""
    PLANES = 3


class Coder(IntEnum):
    """How a plane is stored."""

    STORED = 0
    CONSTANT = 1
    ZSTD = 2


class EncodedBlocks(NamedTuple):
    """What blocks became."""

    pieces: list[Buffer]
    """The payload in order; valid until this thread encodes again."""
    uses_base: bool
    float_share: float
    """Of the blocks that changed: those that planes make smaller than zstd does without a base, being no text and no
    records."""
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
    """
    chunk = np.frombuffer(plain, np.uint8)
    base_chunk = None if base is None else np.frombuffer(base, np.uint8)
    ways = list(_choose_ways(chunk, base_chunk))
    if base_chunk is not None and _base_gain(ways, len(chunk)) < min_gain:
        base_chunk = None
        ways = list(_choose_ways(chunk, None))
    if all(way.plan is None and not way.is_same for way in ways):
        return None
    changed = [way for way in ways if not way.is_same]
    area = borrow("planes", len(chunk) + len(ways) * _SLACK_BYTES)
    blocks = []
    for index, (start, way) in enumerate(zip(_starts(chunk), ways, strict=True)):
        block = chunk[start : start + BLOCK_BYTES]
        place = area[start + index * _SLACK_BYTES :][: len(block) + _SLACK_BYTES]
        blocks.append(_encode_block(block, _block_of(base_chunk, start, len(block)), way, place))
    return EncodedBlocks(
        [piece for block in blocks for piece in block.pieces],
        any(block.uses_base for block in blocks),
        sum(way.is_float for way in changed) / len(changed) if changed else 1.0,
        _is_repeated(chunk),
    )


class _Way(NamedTuple):
    """What is to be tried for a block."""

    plan: Plan | None = None
    is_same: bool = False
    tries_zstd: bool = False
    is_float: bool = False


def _base_gain(ways: Sequence[_Way], size_bytes: int) -> float:
    """Return what the base saves of the size that the chunk has without it."""
    fresh = with_base = 0.0
    for start, way in zip(range(0, size_bytes, BLOCK_BYTES), ways, strict=True):
        size = min(BLOCK_BYTES, size_bytes - start)
        fresh += size * (way.plan.fresh_ratio if way.plan is not None else 1.0)
        if not way.is_same:
            with_base += size * (way.plan.size_ratio if way.plan is not None else 1.0)
    return 1 - with_base / fresh


def _is_repeated(chunk: Bytes) -> bool:
    """Tell whether a probe, some numbers in a row from the middle, is found elsewhere in the chunk."""
    numbers = chunk[: len(chunk) // 4 * 4].view(UNSIGNED[4])
    place = len(numbers) // 2
    probe = numbers[place : place + _PROBE_NUMBERS]
    if len(set(probe.tolist())) < _PROBE_NUMBERS:
        return False  # a run, or too short
    size = BLOCK_BYTES // 4
    equal = borrow("equal", size).view(np.bool_)
    for start in range(0, len(numbers), size):
        block = numbers[start : start + size]
        found = np.equal(block, probe[0], out=equal[: len(block)])
        if np.count_nonzero(found) > len(block) // 100:
            return False  # a frequent number says nothing
        for other in (start + np.flatnonzero(found)).tolist():
            if other != place and np.array_equal(numbers[other : other + _PROBE_NUMBERS], probe):
                return True
    return False


def _choose_ways(chunk: Bytes, base_chunk: Bytes | None) -> Iterator[_Way]:
    way = _Way()
    for index, start in enumerate(_starts(chunk)):
        block = chunk[start : start + BLOCK_BYTES]
        base = _block_of(base_chunk, start, len(block))
        if base is not None and is_same(block, base):
            yield _Way(is_same=True)
        elif len(block) < MIN_BLOCK_BYTES:
            yield _Way(tries_zstd=True)
        else:
            previous = way.plan if index % _LOOK_EVERY else None
            plan = choose_plan(block, base, previous)
            if previous is None or abs(plan.fresh_ratio - previous.fresh_ratio) > _SAME_DATA:
                way = _way_of(block, plan)
            else:
                way = way._replace(plan=plan)
            yield way


def _way_of(block: Bytes, plan: Plan) -> _Way:
    """Compare a plan with zstd, which finds repetition and knows nothing of numbers."""
    sample = block
    if len(block) > 2 * _PIECES * _PIECE_BYTES:
        step = len(block) // (_PIECES + 1)
        sample = np.concatenate([block[step * index :][:_PIECE_BYTES] for index in range(1, _PIECES + 1)])
    zstd_ratio = len(compress(sample.data, _ZSTD_LEVEL)) / len(sample)
    if min(plan.size_ratio, zstd_ratio) > 1 - _MIN_SAVING:
        return _Way()
    is_clear = plan.size_ratio < _FAR_BELOW * zstd_ratio or (
        zstd_ratio > _LITTLE_REPEATED and plan.size_ratio < _BELOW * zstd_ratio
    )
    if not is_clear:
        start = max(0, (len(block) - _LONG_PIECE_BYTES) // 2)
        piece = block[start : start + _LONG_PIECE_BYTES]
        zstd_ratio = min(zstd_ratio, len(compress(piece.data, _ZSTD_LEVEL)) / len(piece))
        is_clear = plan.size_ratio < _BELOW_LONG * zstd_ratio
    is_float = plan.fresh_ratio < zstd_ratio - _MIN_SAVING
    if is_clear:
        return _Way(plan, is_float=is_float)
    if plan.size_ratio < _NEAR * zstd_ratio:
        return _Way(plan, tries_zstd=True, is_float=is_float)
    return _Way(tries_zstd=True)


class _EncodedBlock(NamedTuple):
    pieces: list[Buffer]
    uses_base: bool = False


def _encode_block(block: Bytes, base: Bytes | None, way: _Way, area: Bytes) -> _EncodedBlock:
    if way.is_same:
        return _EncodedBlock([_HEADER.pack(Method.SAME, 0, 0, 0, 0)], True)
    best = _EncodedBlock([_HEADER.pack(Method.STORED, 0, 0, 0, 0), block.data])
    most = len(block) * (1 - _MIN_SAVING)
    if way.plan is not None:
        pieces, uses_base = _encode_planes(block, base, way.plan, area)
        size = sum(map(len, pieces))
        if size <= most:
            best, most = _EncodedBlock(pieces, uses_base), size
    if way.tries_zstd:
        stored = compress(block.data, _ZSTD_LEVEL)
        if _HEADER.size + len(stored) < most:
            best = _EncodedBlock([_HEADER.pack(Method.ZSTD, 0, 0, 0, len(stored)), stored])
    return best


def _starts(chunk: Bytes) -> range:
    return range(0, len(chunk), BLOCK_BYTES)


def _encode_planes(block: Bytes, base: Bytes | None, plan: Plan, area: Bytes) -> tuple[list[Buffer], bool]:
    """Return the block's pieces, and whether they need the base."""
    stride, head = plan.stride, plan.head
    count = (len(block) - head) // stride
    tail = head + count * stride
    numbers = _numbers(block, head, count, stride, "numbers")
    before = None
    prediction = plan.prediction
    if base is not None and prediction.needs_base:
        before = _numbers(base, head, count, stride, "before")
        if prediction is Prediction.RATIO and not can_scale(before):
            prediction = Prediction.BASE
    widths = _widths(plan.bits)
    planes = _place_planes(area, widths, count)
    residuals = predict(numbers, prediction, before, plan.ratio, borrow_as("residuals", count, UNSIGNED[stride]))
    split(residuals, planes, sign_last=prediction is Prediction.SIGN_LAST)
    ratio = struct.pack("<f", plan.ratio if prediction is Prediction.RATIO else 0.0)
    rows = [_HEADER.pack(Method.PLANES, prediction, stride, head, *struct.unpack("<I", ratio))]
    stored: list[Buffer] = []
    offset = 0
    for plane, width in zip(planes, widths, strict=True):
        coder, data = _encode_plane(plane, plan.bits[offset] if width == 1 else 8.0)
        offset += width
        rows.append(_ROW.pack(width, coder, 0, len(data)))
        stored.append(data)
    return [*rows, block[:head].data, *stored, block[tail:].data], prediction.needs_base


def _place_planes(area: Bytes, widths: Sequence[int], count: int) -> list[Numbers]:
    planes: list[Numbers] = []
    for width in widths:
        planes.append(area[: width * count].view(UNSIGNED[width]))
        area = area[-(-width * count // 8) * 8 :]
    return planes


def _encode_plane(plane: Numbers, bits: float) -> tuple[Coder, Buffer]:
    data = plane.view(np.uint8).data
    if bits > RAW_BITS:
        return Coder.STORED, data
    if bits < _SEARCH_BITS:
        if (plane == plane[0]).all():
            return Coder.CONSTANT, plane[:1].tobytes()
        stored = compress(data, 1)
    else:
        stored = compress_plane(data)
    return (Coder.ZSTD, stored) if len(stored) < len(data) else (Coder.STORED, data)


def _widths(bits: Sequence[float]) -> list[int]:
    """Keep planes together that are stored as they are: cutting them costs time and saves nothing."""
    widths: list[int] = []
    place = 0
    while place < len(bits):
        for width in (4, 2, 1):
            is_whole = width < len(bits) and place % width == 0
            if width == 1 or (is_whole and all(bit > RAW_BITS for bit in bits[place : place + width])):
                widths.append(width)
                place += width
                break
    return widths


def blocks_hold(payload: memoryview, base: Buffer | None, plain: Buffer) -> bool:
    """Tell whether a payload decodes to a chunk. Each block is compared while it is in the processor's cache.

    Raises:
        CorruptObjectError: The payload is not that of a chunk of this length.
    """
    chunk = np.frombuffer(plain, np.uint8)
    base_bytes = None if base is None else np.frombuffer(base, np.uint8)
    offset = 0
    for start in range(0, len(chunk), BLOCK_BYTES):
        block = chunk[start : start + BLOCK_BYTES]
        decoded = borrow("decoded", len(block))
        offset = _decode_block(payload, offset, _block_of(base_bytes, start, len(block)), decoded)
        if not is_same(decoded, block):
            return False
    return offset == len(payload)


def decode_blocks(payload: memoryview, base: Buffer | None, out: Bytes) -> None:
    """Write the chunk to `out`, of the chunk's length, aligned to 8.

    Raises:
        CorruptObjectError: The payload is not that of a chunk of this length.
    """
    offset = 0
    base_bytes = None if base is None else np.frombuffer(base, np.uint8)
    for start in range(0, len(out), BLOCK_BYTES):
        block = out[start : start + BLOCK_BYTES]
        offset = _decode_block(payload, offset, _block_of(base_bytes, start, len(block)), block)
    if offset != len(payload):
        raise CorruptObjectError(f"a payload of {len(payload)} bytes, of which the blocks take {offset}")


def _decode_block(payload: memoryview, offset: int, base: Bytes | None, block: Bytes) -> int:
    """Write one block to `block`, and return where the next begins."""
    header = _take(payload, offset, _HEADER.size)
    method, prediction, stride, head, length = _HEADER.unpack(header)
    offset += _HEADER.size
    if method == Method.PLANES:
        return _decode_planes(payload, offset, _PlanesHeader.checked(prediction, stride, head, length), base, block)
    if prediction or stride or head or (length and method != Method.ZSTD):
        raise CorruptObjectError(f"a block of method {method} with what only other methods have")
    if method == Method.STORED:
        block[:] = np.frombuffer(_take(payload, offset, len(block)), np.uint8)
        return offset + len(block)
    if method == Method.ZSTD:
        _fill(block, decompress(_take(payload, offset, length), max_bytes=len(block)))
        return offset + int(length)
    if method == Method.SAME and base is not None:
        block[:] = base
        return offset
    raise CorruptObjectError(f"a block of method {method} and {'no' if base is None else 'a'} base")


class _PlanesHeader(NamedTuple):
    prediction: Prediction
    stride: int
    head: int
    ratio: float

    @classmethod
    def checked(cls, prediction: int, stride: int, head: int, ratio_bits: int) -> "_PlanesHeader":
        (ratio,) = struct.unpack("<f", struct.pack("<I", ratio_bits))
        if (
            prediction > Prediction.RATIO
            or stride not in (2, 4, 8)
            or head >= stride
            or not math.isfinite(ratio)
            or (prediction == Prediction.RATIO and stride != 4)
            or (prediction != Prediction.RATIO and ratio_bits)
        ):
            raise CorruptObjectError(
                f"planes with prediction {prediction}, stride {stride}, head {head} and ratio {ratio}"
            )
        return cls(Prediction(prediction), stride, head, ratio)


def _decode_planes(payload: memoryview, offset: int, header: _PlanesHeader, base: Bytes | None, block: Bytes) -> int:
    prediction, stride, head, ratio = header
    if prediction.needs_base and base is None:
        raise CorruptObjectError("planes that need a base, and none is there")
    count = (len(block) - head) // stride
    if count < 1:
        raise CorruptObjectError(f"planes of {len(block)} bytes with stride {stride} and head {head}")
    tail = head + count * stride
    rows = list(_rows(payload, offset, stride))
    offset += _ROW.size * len(rows)
    block[:head] = np.frombuffer(_take(payload, offset, head), np.uint8)
    offset += head
    planes = []
    for width, coder, length in rows:
        planes.append(_decode_plane(_take(payload, offset, length), width, coder, count))
        offset += length
    is_aligned = head == 0
    numbers = block[head:tail].view(UNSIGNED[stride]) if is_aligned else borrow_as("numbers", count, UNSIGNED[stride])
    before = _numbers(base, head, count, stride, "before") if base is not None and prediction.needs_base else None
    join(planes, sign_last=prediction is Prediction.SIGN_LAST, out=numbers)
    unpredict(numbers, prediction, before, ratio)
    if not is_aligned:
        block[head:tail] = numbers.view(np.uint8)
    block[tail:] = np.frombuffer(_take(payload, offset, len(block) - tail), np.uint8)
    return offset + len(block) - tail


def _rows(payload: memoryview, offset: int, stride: int) -> Iterator[tuple[int, Coder, int]]:
    widths: list[int] = []
    while sum(widths) < stride:
        width, coder, reserved, length = _ROW.unpack(_take(payload, offset, _ROW.size))
        offset += _ROW.size
        if coder > Coder.ZSTD or reserved or width not in (1, 2, 4):
            raise CorruptObjectError(f"a plane of width {width} with coder {coder}")
        widths.append(width)
        yield width, Coder(coder), length
    if not are_planes(widths, stride):
        raise CorruptObjectError(f"planes of widths {widths} for a stride of {stride}")


def _decode_plane(stored: memoryview, width: int, coder: Coder, count: int) -> Numbers:
    size = width * count
    data: Buffer = stored
    if coder is Coder.ZSTD:
        data = decompress(stored, max_bytes=size)
    elif coder is Coder.CONSTANT:
        size = width
    if len(data) != size:
        raise CorruptObjectError(f"a plane of {len(data)} bytes, where {size} are expected")
    numbers: Numbers = np.frombuffer(data, UNSIGNED[width])
    return np.broadcast_to(numbers, count) if coder is Coder.CONSTANT else numbers


def _numbers(block: Bytes, head: int, count: int, stride: int, name: str) -> Numbers:
    """Return the block's numbers, copied where they are not aligned: numpy is slow with those."""
    cut = block[head : head + count * stride]
    numbers: Numbers = cut.view(UNSIGNED[stride])
    if numbers.flags.aligned:
        return numbers
    aligned = borrow(name, count * stride)
    np.copyto(aligned, cut)
    return aligned.view(UNSIGNED[stride])


def _block_of(base: Bytes | None, start: int, size: int) -> Bytes | None:
    """Return the base's bytes at the place of a block; past its end it has zeros."""
    if base is None or start + size <= len(base):
        return None if base is None else base[start : start + size]
    padded = borrow("padded", size)
    held = base[start : start + size]
    padded[: len(held)] = held
    padded[len(held) :] = 0
    return padded


def _take(payload: memoryview, offset: int, length: int) -> memoryview:
    if length > len(payload) - offset:
        raise CorruptObjectError(f"a block that needs {length} bytes, where {len(payload) - offset} are left")
    return payload[offset : offset + length]


def _fill(block: Bytes, data: bytes) -> None:
    if len(data) != len(block):
        raise CorruptObjectError(f"a block of {len(data)} bytes, where {len(block)} are expected")
    block[:] = np.frombuffer(data, np.uint8)
