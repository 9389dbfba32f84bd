"""Numbers as byte planes, and what predicts them: the arithmetic of codec 2. Pure.

Layout: docs/FORMAT.md section 5.2; change both in one commit. Arrays are one-dimensional, contiguous, of little-endian
unsigned integers of `stride` 2, 4 or 8 bytes, which are the bit patterns of whatever the numbers are.

Invariants:
    P1  unpredict(predict(x)) == x for every bit pattern, NaN and Inf included (Prediction.RATIO: where `can_scale`)
    P2  join(split(x)) == x
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ckptfs.codec.scratch import borrow_as

Numbers = NDArray[np.unsignedinteger]

UNSIGNED: dict[int, np.dtype[np.unsignedinteger]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}
"""By width in bytes."""
_SIGNED: dict[int, np.dtype[np.signedinteger]] = {2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
_FLOAT = np.dtype("<f4")
_ONE: dict[int, np.unsignedinteger] = {width: kind.type(1) for width, kind in UNSIGNED.items()}
_SHIFT: dict[int, np.unsignedinteger] = {1: np.uint16(8), 2: np.uint32(16), 4: np.uint64(32)}
"""To the upper half, by the width of a half."""
_FACTOR: dict[int, np.unsignedinteger] = {1: np.uint16(1 << 8), 2: np.uint32(1 << 16), 4: np.uint64(1 << 32)}
"""The same, as a product."""
_INFINITY_BITS = np.uint32(0x7F800000)
_MAGNITUDE_BITS = np.uint32(0x7FFFFFFF)


class Prediction(IntEnum):
    """What is taken from the numbers before they are split."""

    NOTHING = 0
    SIGN_LAST = 1
    """Nothing; but the sign of a float moves below its exponent, so that the exponent is a byte of its own."""
    BASE = 2
    """The number at the same place of the base."""
    RATIO = 3
    """That number, a float of 4 bytes, multiplied by a constant: what becomes of a moment that only decays."""

    @property
    def needs_base(self) -> bool:
        """Tell whether there is nothing to decode without the base."""
        return self in (Prediction.BASE, Prediction.RATIO)


def predict(numbers: Numbers, prediction: Prediction, base: Numbers | None, ratio: float, out: Numbers) -> Numbers:
    """Return the residuals of numbers: small where the prediction is good.

    Args:
        numbers: n numbers.
        prediction: `SIGN_LAST` is not done here but in `split`, where it costs half.
        base: n numbers of the same width where the prediction needs them.
        ratio: Of `RATIO`.
        out: n numbers; may be the result.
    """
    if base is None or not prediction.needs_base:
        return numbers
    stride = numbers.itemsize
    expected = _scaled(base, ratio) if prediction is Prediction.RATIO else base
    np.subtract(numbers, expected, out=out)
    # zigzag: the sign goes last, so that small differences of both signs have the same upper bytes
    signs = borrow_as("spare", len(out), UNSIGNED[stride])
    np.right_shift(out.view(_SIGNED[stride]), 8 * stride - 1, out=signs.view(_SIGNED[stride]))
    np.add(out, out, out=out)
    np.bitwise_xor(out, signs, out=out)
    return out


def unpredict(residuals: Numbers, prediction: Prediction, base: Numbers | None, ratio: float) -> None:
    """Put the numbers in the place of their residuals; the opposite of `predict`."""
    if base is None or not prediction.needs_base:
        return
    one = _ONE[residuals.itemsize]
    signs = borrow_as("spare", len(residuals), residuals.dtype)
    np.bitwise_and(residuals, one, out=signs)
    np.negative(signs, out=signs)
    np.right_shift(residuals, one, out=residuals)
    np.bitwise_xor(residuals, signs, out=residuals)
    np.add(residuals, _scaled(base, ratio) if prediction is Prediction.RATIO else base, out=residuals)


def can_scale(base: Numbers) -> bool:
    """Tell whether a product with each of these floats has the same bits on every machine: none is NaN or Inf."""
    magnitudes = borrow_as("spare", len(base), UNSIGNED[4])
    np.bitwise_and(base, _MAGNITUDE_BITS, out=magnitudes)
    return bool(magnitudes.max(initial=0) < _INFINITY_BITS)


def split(residuals: Numbers, planes: Sequence[Numbers], *, sign_last: bool) -> None:
    """Cut n numbers into planes.

    Args:
        residuals: n numbers.
        planes: n numbers each, from the most significant, of widths for which `are_planes` holds; written.
        sign_last: Rotate the upper 16 bits to the left by one.
    """
    half = residuals.itemsize // 2
    count = len(residuals)
    if half == 1 and sign_last:
        residuals = _rotate(residuals, 1, borrow_as("half-2", count, UNSIGNED[2]))
    left = iter(planes)
    for shift in (8 * half, 0):
        plane, parts = _next_half(left, half)
        place = plane if plane is not None else borrow_as(f"half-{half}", count, UNSIGNED[half])
        if shift:
            np.right_shift(residuals, _SHIFT[half], out=place, casting="unsafe")
        else:
            np.copyto(place, residuals, casting="unsafe")
        if parts:
            split(place, parts, sign_last=sign_last and shift > 0)


def join(planes: Sequence[Numbers], *, sign_last: bool, out: Numbers) -> None:
    """Write the n numbers that were `split` into planes to `out`, which overlaps none of them."""
    half = out.itemsize // 2
    count = len(out)
    left = iter(planes)
    for is_upper in (True, False):
        place, parts = _next_half(left, half)
        if place is None:
            place = borrow_as(f"half-{half}", count, UNSIGNED[half])
            join(parts, sign_last=sign_last and is_upper, out=place)
        if is_upper:
            # one pass each: a shift would need the numbers widened first
            np.multiply(place, _FACTOR[half], out=out)
        else:
            np.add(out, place, out=out)
    if half == 1 and sign_last:
        _rotate(out, 15, out)


def _next_half(planes: Iterator[Numbers], width: int) -> tuple[Numbers | None, list[Numbers]]:
    """Return the next plane where it has a width, else the planes that together have it."""
    first = next(planes)
    if first.itemsize == width:
        return first, []
    parts = [first]
    while sum(part.itemsize for part in parts) < width:
        parts.append(next(planes))
    return None, parts


def are_planes(widths: Sequence[int], stride: int) -> bool:
    """Tell whether numbers of some width can be cut into planes of these: each is of half of it, or halves of that."""
    offset = stride
    for width in widths:
        offset -= width
        if width not in UNSIGNED or width >= stride or offset < 0 or offset % width:
            return False
    return offset == 0


def _rotate(numbers: Numbers, bits: int, out: Numbers) -> Numbers:
    """Rotate 16-bit numbers to the left; `out` may be `numbers`."""
    moved = borrow_as("spare", len(numbers), numbers.dtype)
    np.right_shift(numbers, np.uint16(16 - bits), out=moved)
    np.left_shift(numbers, np.uint16(bits), out=out)
    np.bitwise_or(out, moved, out=out)
    return out


def _scaled(base: Numbers, ratio: float) -> Numbers:
    """Return the bits of the products of 4-byte floats with one: IEEE 754, rounded to nearest even."""
    product = borrow_as("scaled", len(base), UNSIGNED[4])
    with np.errstate(all="ignore"):
        np.multiply(base.view(_FLOAT), np.float32(ratio), out=product.view(_FLOAT))
    return product
