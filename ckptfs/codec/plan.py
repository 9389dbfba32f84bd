"""Which way of encoding a block is the shortest, told from a sample of it. Pure.

Sizes are estimated as the order-0 entropy of the byte planes, which is what the plane coder reaches (a Huffman code).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckptfs.codec.planes import UNSIGNED, Numbers, Prediction, can_scale, predict

Bytes = NDArray[np.uint8]
Bits = tuple[float, ...]
"""Entropy of each byte of a number, from the most significant."""

STRIDES = (4, 2, 8)

# 16 pieces of 512 bytes: 2048 numbers of 4 bytes tell a plane's entropy to 0.05 bits in 0.03 ms
_PIECES = 16
_PIECE_BYTES = 256
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
_STRIDE_MARGIN = 1.1
"""Planes that take more than those of another stride by this factor are not made smaller by a prediction."""
_NO_STRIDE = 0.97
"""Of random bytes, all strides have the same planes; their differences to a base may have not."""
_MIN_MODE = 0.125
"""The share of the numbers that must have the most frequent ratio."""
_MODE_SPREAD = 1e-3


@dataclass(frozen=True, slots=True)
class Plan:
    """How to encode the numbers of a block."""

    stride: int
    head: int
    """Bytes before the first number, below `stride`."""
    prediction: Prediction
    ratio: float
    bits: Bits
    """Estimated entropy of each byte of a number, from the most significant."""
    fresh_ratio: float
    """Estimated size as a fraction of the block without a base; `size_ratio` is never above it."""

    @property
    def size_ratio(self) -> float:
        """Estimated size as a fraction of the block."""
        return _size_ratio(self.bits)


def choose_plans(blocks: Bytes, bases: Bytes | None) -> list[Plan]:
    """Return the best plan for each of some blocks. Looking at several at once costs hardly more than at one.

    Args:
        blocks: An array of (k, n): k blocks of n bytes, n at least MIN_BLOCK_BYTES.
        bases: As many, where there are bases.
    """
    found: list[list[Plan]] = [[] for _ in blocks]
    for (stride, head), bits_by_block in _strides_and_heads(blocks).items():
        chosen = list(bits_by_block)
        numbers = _samples(blocks, stride, head)[chosen]
        before = None if bases is None else _samples(bases, stride, head)[chosen]
        plans = _with_predictions(numbers, before, head, list(bits_by_block.values()))
        for index, plan in zip(chosen, plans, strict=True):
            found[index].append(plan)
    return [
        min(plans, key=lambda plan: plan.size_ratio * (_WIDE_PENALTY if plan.stride == 8 else 1)) for plans in found
    ]


def _strides_and_heads(blocks: Bytes) -> dict[tuple[int, int], dict[int, Bits]]:
    """Return, by stride and phase, the blocks that may have them, each with the entropy of its planes: numbers of 4
    bytes look as good in pairs, and those of 2 bytes in fours; what no stride tells apart may have any of them.
    """
    counts = _plane_counts(_samples(blocks, 8, 0))
    # a sample of numbers of 8 bytes has the same bytes as one of shorter numbers
    of_strides = {stride: _entropies(counts.reshape(len(blocks), -1, stride, 256).sum(1)) for stride in sorted(STRIDES)}
    found: dict[tuple[int, int], dict[int, Bits]] = {}
    for index in range(len(blocks)):
        ratios = {stride: _size_ratio(of_blocks[index]) for stride, of_blocks in of_strides.items()}
        best = min(ratios.values())
        for stride, of_blocks in of_strides.items():
            is_pair = stride > 2 and ratios[stride // 2] < ratios[stride] * _WIDE_PENALTY
            if best > _NO_STRIDE or (ratios[stride] < best * _STRIDE_MARGIN and not is_pair):
                bits = of_blocks[index]
                head = _phase(bits)
                found.setdefault((stride, head), {})[index] = bits[stride - head :] + bits[: stride - head]
    return found


def _with_predictions(numbers: Numbers, before: Numbers | None, head: int, bits: Sequence[Bits]) -> list[Plan]:
    """Return the best plan for each sample.

    Args:
        numbers: Samples: an array of (k, numbers).
        before: Those of the bases.
        head: Of the plans.
        bits: The entropies that the planes of each sample have as they are.
    """
    plans = []
    stride = numbers.itemsize
    for as_they_are, top in zip(bits, _entropies(_plane_counts(_sign_last(numbers))), strict=True):
        prediction, best = Prediction.NOTHING, as_they_are
        if sum(top) < sum(as_they_are[:2]) - _SIGN_BITS:
            prediction, best = Prediction.SIGN_LAST, top + as_they_are[2:]
        plans.append(Plan(stride, head, prediction, 0.0, best, _size_ratio(best)))
    if before is None:
        return plans
    residuals = _residuals(numbers, Prediction.BASE, before, 0.0)
    for index, with_base in enumerate(_entropies(_plane_counts(residuals))):
        if _size_ratio(with_base) < plans[index].size_ratio * _BASE_SAVING:
            plans[index] = replace(plans[index], prediction=Prediction.BASE, bits=with_base)
    for index, ratio in _modes_of_ratios(numbers, before) if stride == 4 else ():
        if can_scale(before[index]):
            one = slice(index, index + 1)
            (scaled,) = _entropies(_plane_counts(_residuals(numbers[one], Prediction.RATIO, before[one], ratio)))
            saving = 1 if plans[index].prediction.needs_base else _BASE_SAVING
            if _size_ratio(scaled) < plans[index].size_ratio * saving:
                plans[index] = replace(plans[index], prediction=Prediction.RATIO, ratio=ratio, bits=scaled)
    return plans


def _residuals(numbers: Numbers, prediction: Prediction, before: Numbers, ratio: float) -> Numbers:
    """Return `predict` of samples, arrays of (k, numbers)."""
    out = np.empty_like(numbers)
    predict(numbers.reshape(-1), prediction, before.reshape(-1), ratio, out.reshape(-1))
    return out


def _modes_of_ratios(numbers: Numbers, before: Numbers) -> Iterator[tuple[int, float]]:
    """Give the samples of which many numbers have been multiplied by about the same, with that."""
    with np.errstate(all="ignore"):
        ratios = numbers.view("<f4") / before.view("<f4")
        ratios[~((np.abs(ratios) < 2) & (ratios != 1) & (ratios != 0))] = np.inf
        ratios.sort(axis=1)
        # the closest two values that enclose the share of the mode
        width = int(_MIN_MODE * numbers.shape[1]) - 1
        spreads = ratios[:, width:] - ratios[:, : ratios.shape[1] - width]
    spreads[np.isnan(spreads)] = np.inf
    for index, first in enumerate(spreads.argmin(axis=1).tolist()):
        if spreads[index, first] < _MODE_SPREAD:
            yield index, float(ratios[index, first + width // 2])


def _phase(bits: Bits) -> int:
    """Return how many bytes come before the first number: numbers of a pickle lie anywhere."""
    # constant bytes tell nothing: floats that were rounded end in zeros, integers begin with them
    lowest = int(np.argmin([bit if bit > _CONSTANT_BITS else 8.0 for bit in bits]))
    return len(bits) - lowest if lowest and bits[lowest] < bits[0] - _PHASE_BITS else 0


def _samples(blocks: Bytes, stride: int, head: int) -> Numbers:
    """Return numbers from all over each of k blocks, an array of (k, numbers)."""
    last = (blocks.shape[1] - head - _PIECE_BYTES) // (_PIECES - 1)
    step = last - last % stride
    pieces = as_strided(
        blocks[:, head:], shape=(len(blocks), _PIECES, _PIECE_BYTES), strides=(blocks.strides[0], step, 1)
    )
    numbers: Numbers = np.ascontiguousarray(pieces).reshape(len(blocks), -1).view(UNSIGNED[stride])
    return numbers


def _sign_last(numbers: Numbers) -> Numbers:
    """Return the upper 16 bits of numbers, rotated."""
    half = numbers.itemsize // 2
    top = np.ascontiguousarray(numbers.view(UNSIGNED[2])[:, half - 1 :: half])
    rotated: Numbers = np.left_shift(top, np.uint16(1)) | np.right_shift(top, np.uint16(15))
    return rotated


def _plane_counts(numbers: Numbers) -> NDArray[np.intp]:
    """Return how often each byte of some numbers has each value.

    Args:
        numbers: Samples: an array of (k, numbers).

    Returns:
        An array of (k, bytes of a number, 256).
    """
    stride = numbers.itemsize
    values = numbers.view(np.uint8)
    places = values + _PLACES[stride][: values.shape[1]]
    if len(numbers) > 1:
        places += np.arange(len(numbers), dtype=np.intp)[:, np.newaxis] * (256 * stride)
    counts = np.bincount(places.reshape(-1), minlength=256 * stride * len(numbers))
    return counts.reshape(len(numbers), stride, 256)


def _entropies(counts: NDArray[np.intp]) -> list[Bits]:
    """Return the order-0 entropy of each byte, from the most significant."""
    total = int(counts[0, 0].sum())
    bits = math.log2(total) - (_INFORMATION.take(counts).sum(2) + _SEEN) / total
    return [tuple(planes[::-1]) for planes in bits.tolist()]


def _size_ratio(bits: Bits) -> float:
    return sum(8.0 if bit > RAW_BITS else min(bit + _CODE_OVERHEAD_BITS, 8.0) for bit in bits) / (8 * len(bits))


_PLACES = {
    stride: np.tile(np.arange(stride, dtype=np.intp) * 256, _PIECES * _PIECE_BYTES // stride) for stride in STRIDES
}
"""Where the counts of each byte of a sample begin."""
_COUNTS = np.arange(_PIECES * _PIECE_BYTES + 1, dtype=np.float64)
_SEEN = 1 / (2 * math.log(2))
"""A sample has too few values to show all of the entropy: Miller and Madow add this for each but one that it has."""
_INFORMATION = _COUNTS * np.log2(np.maximum(_COUNTS, 1)) - _SEEN * (_COUNTS > 0)
