"""Which way of encoding a block is the shortest, told from a sample of it. Pure.

Sizes are estimated as the order-0 entropy of the byte planes, which is what the plane coder reaches (a Huffman code).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckptfs.codec.planes import UNSIGNED, Numbers, Prediction, can_scale, predict

Bytes = NDArray[np.uint8]

STRIDES = (2, 4, 8)

# 16 pieces of 512 bytes: 2048 numbers of 4 bytes tell a plane's entropy to 0.05 bits in 0.03 ms
_PIECES = 16
_PIECE_BYTES = 256
MIN_BLOCK_BYTES = 4 << 10
"""Smaller ones have too little to sample, and zstd's overhead per plane begins to show."""

RAW_BITS = 7.6
"""Above it a Huffman code saves under 5 % of a plane and costs as much time as one that saves half."""
MOST_BLOCKS = 8
"""At once."""
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
_NARROW_ENOUGH = 1.02
"""The same before a base is looked at, for all pairs: what is really wider differs by more."""
_STRIDE_MARGIN = 1.05
"""Planes that take more than those of another stride by this factor are not made smaller by a prediction: floats of 4
bytes take 1.066 times as much as pairs of 2, and looking what a base would make of those took 4 % of encoding."""
_NO_STRIDE = 0.97
"""Of random bytes, all strides have the same planes; their differences to a base may have not."""
_MIN_MODE = 0.125
"""The share of the numbers that must have the most frequent ratio."""
_MODE_SPREAD = 1e-3


class Entropy(NamedTuple):
    """Of the planes of some numbers."""

    bits: tuple[float, ...]
    """Of each byte of a number, from the most significant."""
    ratio: float
    """What coding makes of them."""


class Plan(NamedTuple):
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
    size_ratio: float
    """Estimated size as a fraction of the block."""


def choose_plans(blocks: Bytes, bases: Bytes | None) -> list[Plan]:
    """Return the best plan for each of some blocks. Looking at several at once costs hardly more than at one.

    Args:
        blocks: An array of (k, n): k blocks of n bytes, k at most MOST_BLOCKS and n at least MIN_BLOCK_BYTES.
        bases: As many, where there are bases.
    """
    found: list[list[Plan]] = [[] for _ in blocks]
    for (stride, head), by_block in _strides_and_heads(blocks).items():
        chosen = list(by_block)
        numbers = _samples(blocks, stride, head, chosen)
        before = None if bases is None else _samples(bases, stride, head, chosen)
        plans = _with_predictions(numbers, before, head, by_block.values())
        for index, plan in zip(chosen, plans, strict=True):
            found[index].append(plan)
    return [
        min(plans, key=lambda plan: plan.size_ratio * (_WIDE_PENALTY if plan.stride == 8 else 1)) for plans in found
    ]


def _strides_and_heads(blocks: Bytes) -> dict[tuple[int, int], dict[int, Entropy]]:
    """Return, by stride and phase, the blocks that may have them, each with the entropy of its planes: numbers of 4
    bytes look as good in pairs, and those of 2 bytes in fours; what no stride tells apart may have any of them.
    """
    counts = _plane_counts(_samples(blocks, 8, 0))
    # a sample of numbers of 8 bytes has the same bytes as one of shorter numbers
    of_strides = {stride: _entropies(counts.reshape(len(blocks), -1, stride, 256).sum(1)) for stride in STRIDES}
    found: dict[tuple[int, int], dict[int, Entropy]] = {}
    for index in range(len(blocks)):
        best = min(of_blocks[index].ratio for of_blocks in of_strides.values())
        narrower = math.inf
        for stride, of_blocks in of_strides.items():
            bits, ratio = of_blocks[index]
            if best > _NO_STRIDE or (ratio < best * _STRIDE_MARGIN and narrower > ratio * _NARROW_ENOUGH):
                head = _phase(bits)
                rotated = bits[stride - head :] + bits[: stride - head]
                found.setdefault((stride, head), {})[index] = Entropy(rotated, ratio)
            narrower = ratio
    return found


def _with_predictions(
    numbers: Numbers, before: Numbers | None, head: int, as_they_are: Iterable[Entropy]
) -> list[Plan]:
    """Return the best plan for each sample.

    Args:
        numbers: Samples: an array of (k, numbers).
        before: Those of the bases.
        head: Of the plans.
        as_they_are: The entropies of the planes of each.
    """
    plans = []
    stride = numbers.itemsize
    for (bits, ratio), (top, top_ratio) in zip(
        as_they_are, _entropies(_plane_counts(_sign_last(numbers))), strict=True
    ):
        prediction = Prediction.NOTHING
        if sum(top) < sum(bits[:2]) - _SIGN_BITS:
            prediction = Prediction.SIGN_LAST
            ratio += (top_ratio - _size_ratio(bits[:2])) * 2 / stride
            bits = top + bits[2:]
        plans.append(Plan(stride, head, prediction, 0.0, bits, ratio, ratio))
    if before is None:
        return plans
    for index, (bits, ratio) in enumerate(_entropies(_plane_counts(_residuals(numbers, Prediction.BASE, before, 0.0)))):
        if ratio < plans[index].size_ratio * _BASE_SAVING:
            plans[index] = plans[index]._replace(prediction=Prediction.BASE, bits=bits, size_ratio=ratio)
    for index, factor in _modes_of_ratios(numbers, before) if stride == 4 else ():
        if can_scale(before[index]):
            one = slice(index, index + 1)
            residuals = _residuals(numbers[one], Prediction.RATIO, before[one], factor)
            ((bits, ratio),) = _entropies(_plane_counts(residuals))
            plan = plans[index]
            if ratio < plan.size_ratio * (1 if plan.prediction.needs_base else _BASE_SAVING):
                plans[index] = plan._replace(prediction=Prediction.RATIO, ratio=factor, bits=bits, size_ratio=ratio)
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


def _phase(bits: tuple[float, ...]) -> int:
    """Return how many bytes come before the first number: numbers of a pickle lie anywhere."""
    # constant bytes tell nothing: floats that were rounded end in zeros, integers begin with them
    lowest = int(np.argmin([bit if bit > _CONSTANT_BITS else 8.0 for bit in bits]))
    return len(bits) - lowest if lowest and bits[lowest] < bits[0] - _PHASE_BITS else 0


def _samples(blocks: Bytes, stride: int, head: int, chosen: list[int] | None = None) -> Numbers:
    """Return numbers from all over some blocks, an array of (blocks, numbers)."""
    last = (blocks.shape[1] - head - _PIECE_BYTES) // (_PIECES - 1)
    step = last - last % stride
    pieces = as_strided(
        blocks[:, head:], shape=(len(blocks), _PIECES, _PIECE_BYTES), strides=(blocks.strides[0], step, 1)
    )
    if chosen is None or len(chosen) == len(blocks):
        taken = np.ascontiguousarray(pieces)
    else:
        taken = pieces[chosen]
    numbers: Numbers = taken.reshape(len(taken), -1).view(UNSIGNED[stride])
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
    stride, count = numbers.itemsize, len(numbers)
    values = numbers.view(np.uint8)
    places = values + _PLACES[stride][:count, : values.shape[1]]
    counts = np.bincount(places.reshape(-1), minlength=256 * stride * count)
    return counts.reshape(count, stride, 256)


def _entropies(counts: NDArray[np.intp]) -> list[Entropy]:
    """Return the order-0 entropy of each byte of some samples."""
    total = int(counts[0, 0].sum())
    bits = math.log2(total) - (_INFORMATION.take(counts).sum(2) + _SEEN) / total
    coded = np.minimum(bits + _CODE_OVERHEAD_BITS, 8.0)
    coded[bits > RAW_BITS] = 8.0
    ratios = coded.sum(1) / (8 * coded.shape[1])
    return [Entropy(tuple(planes[::-1]), ratio) for planes, ratio in zip(bits.tolist(), ratios.tolist(), strict=True)]


def _size_ratio(bits: Sequence[float]) -> float:
    return sum(8.0 if bit > RAW_BITS else min(bit + _CODE_OVERHEAD_BITS, 8.0) for bit in bits) / (8 * len(bits))


def _places(stride: int) -> NDArray[np.uint16]:
    """Return where the counts of each byte of each sample begin."""
    byte = np.arange(_PIECES * _PIECE_BYTES) % stride
    return ((byte + stride * np.arange(MOST_BLOCKS)[:, np.newaxis]) * 256).astype(np.uint16)


_PLACES = {stride: _places(stride) for stride in STRIDES}
_COUNTS = np.arange(_PIECES * _PIECE_BYTES + 1, dtype=np.float64)
_SEEN = 1 / (2 * math.log(2))
"""A sample has too few values to show all of the entropy: Miller and Madow add this for each but one that it has."""
_INFORMATION = _COUNTS * np.log2(np.maximum(_COUNTS, 1)) - _SEEN * (_COUNTS > 0)
