"""A block's numbers as planes, each coded on its own, and back: method 3 of codec 2. Pure.

Layout: docs/FORMAT.md section 5.2; change both in one commit. A decoder raises CorruptObjectError for whatever is not
laid out as there, before it allocates for it.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptfs.codec.plan import RAW_BITS, Plan
from ckptfs.codec.planes import UNSIGNED, Numbers, Prediction, are_planes, can_scale, join, predict, split, unpredict
from ckptfs.codec.scratch import Buffer, borrow, borrow_as, is_same
from ckptfs.codec.zstd import compress_plane, decompress
from ckptfs.errors import CorruptObjectError

Bytes = NDArray[np.uint8]

SLACK_BYTES = 64
"""What the planes of a block take more than the block, as each begins at a multiple of 8."""

_ROW = struct.Struct("<BBHI")
"""width, coder, reserved, stored length"""
_SEARCH_BITS = 0.7
"""Below it a plane is mostly one value, and runs save more than a code of at least one bit per byte."""
_CHECKED_NUMBERS = 4 << 10
_PROBE = 1 << 10


class Coder(IntEnum):
    """How a plane is stored."""

    STORED = 0
    CONSTANT = 1
    ZSTD = 2


class Header(NamedTuple):
    """What the numbers of a block are."""

    prediction: Prediction
    stride: int
    head: int
    """Bytes before the first number, below `stride`."""
    ratio: float

    @property
    def ratio_bits(self) -> int:
        """The ratio as it is stored."""
        return int(struct.unpack("<I", struct.pack("<f", self.ratio))[0])


class CodedPlanes(NamedTuple):
    """What a block became."""

    header: Header
    pieces: list[Buffer]
    """Rows, head, planes and rest; they refer to the block, and to the area that was given for the planes."""
    coded: list[tuple[Numbers, Buffer]]
    """The planes that zstd has coded, with what it made of them."""
    planes: list[Numbers]
    """All of them, as they were before."""

    @property
    def size_bytes(self) -> int:
        """Of the pieces."""
        return sum(map(len, self.pieces))


def encode_planes(block: Bytes, base: Bytes | None, plan: Plan, area: Bytes) -> CodedPlanes:
    """Encode a block as a plan says.

    Args:
        block: At least one number and the plan's head.
        base: As many bytes, where the plan needs them.
        plan: The plan.
        area: For the planes: SLACK_BYTES more than the block.
    """
    header = Header(plan.prediction, plan.stride, plan.head, plan.ratio)
    numbers, before = _numbers(block, header, "numbers"), None
    if base is not None and plan.prediction.needs_base:
        before = _numbers(base, header, "before")
        if plan.prediction is Prediction.RATIO and not can_scale(before):
            header = header._replace(prediction=Prediction.BASE)
    if header.prediction is not Prediction.RATIO:
        header = header._replace(ratio=0.0)
    count, tail = len(numbers), plan.head + len(numbers) * plan.stride
    widths = _widths(plan.bits)
    planes = _place_planes(area, widths, count)
    residuals = borrow_as("residuals", count, UNSIGNED[plan.stride])
    residuals = predict(numbers, header.prediction, before, header.ratio, residuals)
    split(residuals, planes, sign_last=header.prediction is Prediction.SIGN_LAST)
    rows, stored, coded = [], list[Buffer](), []
    offset = 0
    for plane, width in zip(planes, widths, strict=True):
        coder, data = _encode_plane(plane, plan.bits[offset] if width == 1 else 8.0)
        offset += width
        rows.append(_ROW.pack(width, coder, 0, len(data)))
        stored.append(data)
        if coder is Coder.ZSTD:
            coded.append((plane, data))
    return CodedPlanes(header, [*rows, block[: plan.head].data, *stored, block[tail:].data], coded, planes)


def planes_come_back(encoded: CodedPlanes) -> bool:
    """Tell whether what zstd coded decodes to the planes. To be called before the area is used again.

    Raises:
        CorruptObjectError: What zstd made cannot be decoded.
    """
    return all(
        is_same(decompress(stored, max_bytes=plane.nbytes), plane.view(np.uint8)) for plane, stored in encoded.coded
    )


def numbers_come_back(encoded: CodedPlanes, block: Bytes, base: Bytes | None) -> bool:
    """Tell whether the planes, as they were before they were coded, give the block's last numbers.

    What lies between the two is copies, shifts and integer sums without a branch, each with its exact opposite for
    every number alike (P1 and P2 of planes.py, tested over all kinds of numbers). Some numbers tell whether the right
    ones, base and ratio were taken; all of them would take as long as decoding does.
    """
    header = encoded.header
    numbers, before = _numbers(block, header, "numbers")[-_CHECKED_NUMBERS:], None
    if base is not None and header.prediction.needs_base:
        before = _numbers(base, header, "before")[-_CHECKED_NUMBERS:]
    found = borrow_as("checked", len(numbers), UNSIGNED[header.stride])
    _join_numbers([plane[-_CHECKED_NUMBERS:] for plane in encoded.planes], header, before, found)
    return found.tobytes() == numbers.tobytes()


def decode_planes(payload: memoryview, header: Header, base: Bytes | None, block: Bytes) -> int:
    """Write a block to `block`, and return how many bytes of the payload it takes.

    Args:
        payload: Rows, head, planes and rest, and whatever follows.
        header: As it was read.
        base: As many bytes as the block has, where there is a base.
        block: For the decoded bytes, aligned to 8.
    """
    _check(header, base, len(block))
    prediction, stride, head, _ = header
    count = (len(block) - head) // stride
    tail = head + count * stride
    rows = list(_rows(payload, stride))
    offset = _ROW.size * len(rows)
    block[:head] = np.frombuffer(take(payload, offset, head), np.uint8)
    offset += head
    planes = []
    for width, coder, length in rows:
        planes.append(_decode_plane(take(payload, offset, length), width, coder, count))
        offset += length
    before = _numbers(base, header, "before") if base is not None and prediction.needs_base else None
    if head:
        numbers = borrow_as("numbers", count, UNSIGNED[stride])
        _join_numbers(planes, header, before, numbers)
        block[head:tail] = numbers.view(np.uint8)
    else:
        _join_numbers(planes, header, before, block[:tail].view(UNSIGNED[stride]))
    block[tail:] = np.frombuffer(take(payload, offset, len(block) - tail), np.uint8)
    return offset + len(block) - tail


def take(payload: memoryview, offset: int, length: int) -> memoryview:
    """Return a part of a payload. Raises CorruptObjectError: It is not that long."""
    if length > len(payload) - offset:
        raise CorruptObjectError(f"a block that needs {length} bytes, where {len(payload) - offset} are left")
    return payload[offset : offset + length]


def _check(header: Header, base: Bytes | None, size_bytes: int) -> None:
    prediction, stride, head, ratio = header
    if (
        prediction > Prediction.RATIO
        or stride not in (2, 4, 8)
        or head >= stride
        or not math.isfinite(ratio)
        or (prediction == Prediction.RATIO and stride != 4)
        or (prediction != Prediction.RATIO and header.ratio_bits)
    ):
        raise CorruptObjectError(f"planes with prediction {prediction}, stride {stride}, head {head} and ratio {ratio}")
    if Prediction(prediction).needs_base and base is None:
        raise CorruptObjectError("planes that need a base, and none is there")
    if size_bytes < head + stride:
        raise CorruptObjectError(f"planes of {size_bytes} bytes with stride {stride} and head {head}")


def _join_numbers(planes: Sequence[Numbers], header: Header, before: Numbers | None, out: Numbers) -> None:
    join(planes, sign_last=header.prediction is Prediction.SIGN_LAST, out=out)
    unpredict(out, header.prediction, before, header.ratio)


def _numbers(block: Bytes, header: Header, name: str) -> Numbers:
    """Return the block's numbers, copied where they are not aligned: numpy is slow with those."""
    count = (len(block) - header.head) // header.stride
    cut = block[header.head : header.head + count * header.stride]
    numbers: Numbers = cut.view(UNSIGNED[header.stride])
    if numbers.flags.aligned:
        return numbers
    aligned = borrow(name, len(cut))
    np.copyto(aligned, cut)
    return aligned.view(UNSIGNED[header.stride])


def _place_planes(area: Bytes, widths: Sequence[int], count: int) -> list[Numbers]:
    planes: list[Numbers] = []
    for width in widths:
        planes.append(area[: width * count].view(UNSIGNED[width]))
        area = area[-(-width * count // 8) * 8 :]
    return planes


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


def _encode_plane(plane: Numbers, bits: float) -> tuple[Coder, Buffer]:
    data = plane.view(np.uint8).data
    if bits > RAW_BITS:
        return Coder.STORED, data
    is_sparse = bits < _SEARCH_BITS
    if is_sparse and (plane[:_PROBE] == plane[0]).all() and (plane == plane[0]).all():
        return Coder.CONSTANT, plane[:1].tobytes()
    stored = compress_plane(data, is_sparse=is_sparse)
    return (Coder.ZSTD, stored) if len(stored) < len(data) else (Coder.STORED, data)


def _rows(payload: memoryview, stride: int) -> Iterator[tuple[int, Coder, int]]:
    widths: list[int] = []
    while sum(widths) < stride:
        width, coder, reserved, length = _ROW.unpack(take(payload, _ROW.size * len(widths), _ROW.size))
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
