"""Which way of encoding a block is the shortest, told from a sample of it. Pure.

Sizes are estimated as the order-0 entropy of the byte planes, which is what the plane coder reaches (a Huffman code).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckptfs.codec.planes import UNSIGNED, Numbers, Prediction, can_scale, predict

Bytes = NDArray[np.uint8]

STRIDES = (4, 2, 8)

# 16 pieces of 512 bytes: 2048 numbers of 4 bytes tell a plane's entropy to 0.05 bits in 0.03 ms
_PIECES = 16
_PIECE_BYTES = 512
MIN_BLOCK_BYTES = 4 << 10
"""Smaller ones have too little to sample, and zstd's overhead per plane begins to show."""

RAW_BITS = 7.7
"""Above it a Huffman code saves under 4 % of a plane and costs as much time as one that saves half."""
_CODE_OVERHEAD_BITS = 0.04
_PHASE_BITS = 1.0
"""How much lower than that of the last byte the entropy of another byte must be to be taken for the numbers' last."""
_CONSTANT_BITS = 0.02
_SIGN_BITS = 0.05
"""What moving the sign must save: integers have none."""
_BASE_SAVING = 0.98
"""A base that saves less than 2 % of what is left is not worth fetching it."""
_WIDE_PENALTY = 1.005
"""Numbers of 4 bytes look as good in pairs, within what a sample tells, and take a third more time."""
_ALIKE_BITS = 0.1
"""By how much the planes of a block may differ from those of the block before for the same plan to be kept."""
_MIN_MODE = 0.125
"""The share of the numbers that must have the most frequent ratio."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to encode the numbers of a block."""

    stride: int
    head: int
    """Bytes before the first number, below `stride`."""
    prediction: Prediction
    ratio: float
    bits: tuple[float, ...]
    """Estimated entropy of each byte of a number, from the most significant."""
    fresh_ratio: float
    """Estimated size as a fraction of the block without a base; `size_ratio` is never above it."""

    @property
    def size_ratio(self) -> float:
        """Estimated size as a fraction of the block."""
        return _size_ratio(self.bits)


def choose_plan(block: Bytes, base: Bytes | None, previous: Plan | None) -> Plan:
    """Return the best plan for a block.

    Args:
        block: At least MIN_BLOCK_BYTES.
        base: As many bytes, where there is a base.
        previous: A plan whose stride and phase are kept, and all of it where the block is of the same kind; None to
            look at everything.
    """
    if previous is not None:
        sample = _sample(block, previous.stride, previous.head)
        return _kept(previous, sample, base) or _with_prediction(sample, base, previous.head, _plane_bits(sample))
    plans = []
    for stride in STRIDES:
        head, sample = 0, _sample(block, stride, 0)
        bits = _plane_bits(sample)
        phase = _phase(bits)
        if phase:
            head, sample = phase, _sample(block, stride, phase)
            bits = _plane_bits(sample)
        plans.append(_with_prediction(sample, base, head, bits))
    return min(plans, key=lambda plan: plan.size_ratio * (_WIDE_PENALTY if plan.stride == 8 else 1))


def _kept(previous: Plan, sample: Numbers, base: Bytes | None) -> Plan | None:
    """Return a plan for a block if it leaves planes of about the same entropy as it did before; None: look again."""
    prediction = previous.prediction
    if prediction.needs_base and base is not None:
        before = _sample(base, previous.stride, previous.head)
        if prediction is Prediction.RATIO and not can_scale(before):
            return None
        bits = _plane_bits(predict(sample, prediction, before, previous.ratio, np.empty_like(sample)))
    elif prediction.needs_base or base is not None:
        return None
    else:
        bits = _plane_bits(sample)
        if prediction is Prediction.SIGN_LAST:
            bits = _plane_bits(_sign_last(sample)) + bits[2:]
    if any(abs(bit - was) > _ALIKE_BITS for bit, was in zip(bits, previous.bits, strict=True)):
        return None
    return replace(previous, bits=bits)


def _with_prediction(sample: Numbers, base: Bytes | None, head: int, bits: tuple[float, ...]) -> Plan:
    """Return the best plan for a block whose sample, as it is, has planes of some entropy."""
    stride = sample.itemsize
    prediction, ratio = Prediction.NOTHING, 0.0
    top = _plane_bits(_sign_last(sample))
    if sum(top) < sum(bits[:2]) - _SIGN_BITS:
        prediction, bits = Prediction.SIGN_LAST, top + bits[2:]
    fresh = _size_ratio(bits)
    if base is not None:
        before = _sample(base, stride, head)
        for candidate, factor in _with_base(sample, before):
            residuals = predict(sample, candidate, before, factor, np.empty_like(sample))
            with_base = _plane_bits(residuals)
            if _size_ratio(with_base) < _size_ratio(bits) * (1 if prediction.needs_base else _BASE_SAVING):
                prediction, ratio, bits = candidate, factor, with_base
    return Plan(stride, head, prediction, ratio, bits, fresh)


def _with_base(sample: Numbers, before: Numbers) -> Iterator[tuple[Prediction, float]]:
    yield Prediction.BASE, 0.0
    if sample.itemsize == 4 and can_scale(before):
        ratio = _mode_of_ratios(sample, before)
        if ratio is not None:
            yield Prediction.RATIO, ratio


def _mode_of_ratios(sample: Numbers, before: Numbers) -> float | None:
    """Return what most numbers have been multiplied by, if many have been by about the same."""
    with np.errstate(all="ignore"):
        ratios = sample.view("<f4") / before.view("<f4")
    ratios = np.sort(ratios[(np.abs(ratios) < 2) & (ratios != 1) & (ratios != 0)])
    if len(ratios) < _MIN_MODE * len(sample):
        return None
    # the closest two values that enclose the share of the mode
    width = int(_MIN_MODE * len(sample)) - 1
    spreads = ratios[width:] - ratios[: len(ratios) - width]
    first = int(np.argmin(spreads))
    if not spreads[first] < 1e-3:
        return None
    return float(ratios[first + width // 2])


def _phase(bits: tuple[float, ...]) -> int:
    """Return how many bytes come before the first number: numbers of a pickle lie anywhere."""
    # constant bytes tell nothing: floats that were rounded end in zeros, integers begin with them
    lowest = int(np.argmin([bit if bit > _CONSTANT_BITS else 8.0 for bit in bits]))
    return len(bits) - lowest if lowest and bits[lowest] < bits[0] - _PHASE_BITS else 0


def _sample(block: Bytes, stride: int, head: int) -> Numbers:
    """Return numbers from all over a block, a contiguous copy."""
    last = (len(block) - head - _PIECE_BYTES) // (_PIECES - 1)
    step = last - last % stride
    pieces = as_strided(block[head:], shape=(_PIECES, _PIECE_BYTES), strides=(step, 1))
    numbers: Numbers = np.ascontiguousarray(pieces).reshape(-1).view(UNSIGNED[stride])
    return numbers


def _sign_last(sample: Numbers) -> Numbers:
    """Return the upper 16 bits of numbers, rotated."""
    top = np.ascontiguousarray(sample.view(UNSIGNED[2])[sample.itemsize // 2 - 1 :: sample.itemsize // 2])
    rotated: Numbers = np.left_shift(top, np.uint16(1)) | np.right_shift(top, np.uint16(15))
    return rotated


def _plane_bits(sample: Numbers) -> tuple[float, ...]:
    """Return the order-0 entropy of each byte of some numbers, from the most significant."""
    stride = sample.itemsize
    count = len(sample)
    places = _PLACES[stride][: count * stride] + sample.view(np.uint8)
    counts = np.bincount(places, minlength=256 * stride).reshape(stride, 256)
    # a sample has too few values to show all of the entropy (Miller and Madow's correction)
    unseen = (np.count_nonzero(counts, axis=1) - 1) / (2 * math.log(2) * count)
    bits = math.log2(count) - _COUNT_LOG_COUNT[counts].sum(1) / count + unseen
    return tuple(bits[::-1].tolist())


def _size_ratio(bits: tuple[float, ...]) -> float:
    return sum(8.0 if bit > RAW_BITS else min(bit + _CODE_OVERHEAD_BITS, 8.0) for bit in bits) / (8 * len(bits))


_PLACES = {
    stride: np.tile(np.arange(stride, dtype=np.intp) * 256, _PIECES * _PIECE_BYTES // stride) for stride in STRIDES
}
"""Where the counts of each byte of a sample begin."""
_COUNTS = np.arange(_PIECES * _PIECE_BYTES + 1, dtype=np.float64)
_COUNT_LOG_COUNT = _COUNTS * np.log2(np.maximum(_COUNTS, 1))
