"""What is tried for each block of a chunk: planes, zstd, both or nothing, told from samples. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptfs.codec.coded_planes import SLACK_BYTES, encode_planes
from ckptfs.codec.plan import MIN_BLOCK_BYTES, MOST_BLOCKS, Plan, choose_plans
from ckptfs.codec.planes import UNSIGNED, Prediction
from ckptfs.codec.scratch import borrow, is_same
from ckptfs.codec.zstd import compress

Bytes = NDArray[np.uint8]

BLOCK_BYTES = 1 << 20
MIN_SAVING = 0.03
"""A block that saves less is stored as it is."""
ZSTD_LEVEL = 3

# repetition of a tensor is seen if it takes 16 KiB; as often as that costs a tenth of comparing all numbers with one
_PROBE_STEP = 2048
_PROBES = 16
_PROBE_NUMBERS = 4

_PIECES = 4
_PIECE_BYTES = 4 << 10
_LONG_PIECE_BYTES = 16 << 10
# what zstd makes of a piece is more than it makes of a block, and more so the more is repeated: text of 40 % in 4 KiB
# is 30 % in 64 KiB; floats lose nothing by being cut
_FAR_BELOW = 0.8
_LITTLE_REPEATED = 0.88
_BELOW = 0.97
_BELOW_LONG = 0.95
_SAME_DATA = 0.03
"""Blocks whose planes have about the same entropy as those before are the same kind of data."""


class Way(NamedTuple):
    """What is to be tried for a block."""

    plan: Plan | None = None
    is_same: bool = False
    tries_zstd: bool = False
    is_float: bool = False


def block_starts(chunk: Bytes) -> range:
    """Return where the blocks of a chunk begin."""
    return range(0, len(chunk), BLOCK_BYTES)


def block_of(base: Bytes | None, start: int, size: int) -> Bytes | None:
    """Return the base's bytes at the place of a block; past its end it has zeros."""
    if base is None or start + size <= len(base):
        return None if base is None else base[start : start + size]
    padded = borrow("padded", size)
    held = base[start : start + size]
    padded[: len(held)] = held
    padded[len(held) :] = 0
    return padded


def base_gain(ways: Sequence[Way], size_bytes: int) -> float:
    """Return what the base saves of the size that the chunk has without it."""
    fresh = with_base = 0.0
    for start, way in zip(range(0, size_bytes, BLOCK_BYTES), ways, strict=True):
        size = min(BLOCK_BYTES, size_bytes - start)
        fresh += size * (way.plan.fresh_ratio if way.plan is not None else 1.0)
        if not way.is_same:
            with_base += size * (way.plan.size_ratio if way.plan is not None else 1.0)
    return 1 - with_base / fresh


def is_repeated(chunk: Bytes) -> bool:
    """Tell whether some numbers from the middle of the chunk are found elsewhere in it.

    Of as many numbers in a row as lie between two that are looked at elsewhere, one at least is seen again.
    """
    numbers = chunk[: len(chunk) // 4 * 4].view(UNSIGNED[4])
    first = len(numbers) // 2
    row = numbers[first : first + _PROBE_STEP]
    looked_at = numbers[::_PROBE_STEP]
    in_order = np.sort(row)
    nearest = in_order.take(in_order.searchsorted(looked_at), mode="clip") if len(row) else row
    for place in (np.flatnonzero(nearest == looked_at)[:_PROBES] * _PROBE_STEP).tolist():
        some = numbers[place : place + _PROBE_NUMBERS].tolist()
        if first <= place < first + len(row) or len(set(some)) < _PROBE_NUMBERS:
            continue  # itself, a run, or too short
        at = first + int(np.argmax(row == some[0]))
        if numbers[at : at + _PROBE_NUMBERS].tolist() == some:
            return True
    return False


def choose_ways(chunk: Bytes, base_chunk: Bytes | None) -> Iterator[Way]:
    """Give what is to be tried for each block."""
    way = Way()
    plans: list[Plan] = []
    for index, start in enumerate(block_starts(chunk)):
        block = chunk[start : start + BLOCK_BYTES]
        base = block_of(base_chunk, start, len(block))
        if base is not None and is_same(block, base):
            plans = plans[1:]
            yield Way(is_same=True)
        elif len(block) < MIN_BLOCK_BYTES:
            yield Way(tries_zstd=True)
        else:
            plan, *plans = plans or _plans_from(chunk, base_chunk, index)
            if way.plan is None or abs(plan.fresh_ratio - way.plan.fresh_ratio) > _SAME_DATA:
                way = _way_of(block, base, plan)
            else:
                way = way._replace(plan=plan)
            yield way


def _plans_from(chunk: Bytes, base_chunk: Bytes | None, index: int) -> list[Plan]:
    """Return plans for the blocks from an index on: for as many as are whole, and so is their base, or for one."""
    start = index * BLOCK_BYTES
    whole = (len(chunk) if base_chunk is None else min(len(chunk), len(base_chunk))) // BLOCK_BYTES
    where = slice(start, min(whole, index + MOST_BLOCKS) * BLOCK_BYTES)
    blocks = chunk[where].reshape(-1, BLOCK_BYTES)
    if len(blocks):
        return choose_plans(blocks, None if base_chunk is None else base_chunk[where].reshape(-1, BLOCK_BYTES))
    block = chunk[start : start + BLOCK_BYTES]
    base = block_of(base_chunk, start, len(block))
    return choose_plans(block[np.newaxis], None if base is None else base[np.newaxis])


def _way_of(block: Bytes, base: Bytes | None, plan: Plan) -> Way:
    """Compare a plan with zstd, which finds repetition and knows nothing of numbers."""
    zstd_ratio = _zstd_ratio(_pieces_of(block, _PIECE_BYTES))
    if min(plan.size_ratio, zstd_ratio) > 1 - MIN_SAVING:
        return Way()
    if plan.size_ratio < _FAR_BELOW * zstd_ratio or (
        zstd_ratio > _LITTLE_REPEATED and plan.size_ratio < _BELOW * zstd_ratio
    ):
        return Way(plan, is_float=plan.fresh_ratio < zstd_ratio - MIN_SAVING or _is_mostly_float(block, plan))
    # runs of zeros, which are repetition, make planes smaller than their entropy says: both are tried on a sample
    sample = _pieces_of(block, _LONG_PIECE_BYTES)
    zstd_ratio = _zstd_ratio(sample)
    fresh_ratio = planes_ratio = _planes_ratio(sample, None, plan._replace(prediction=Prediction.NOTHING))
    if base is not None and plan.prediction.needs_base:
        planes_ratio = _planes_ratio(sample, _pieces_of(base, _LONG_PIECE_BYTES), plan)
    is_float = min(fresh_ratio, planes_ratio) < zstd_ratio * _BELOW
    if planes_ratio < _BELOW_LONG * zstd_ratio:
        return Way(plan, is_float=is_float)
    if planes_ratio < zstd_ratio:
        return Way(plan, tries_zstd=True, is_float=is_float)
    return Way(tries_zstd=True)


def _is_mostly_float(block: Bytes, plan: Plan) -> bool:
    """Tell whether zstd makes less than planes of one piece only: the header of a file of tensors is text."""
    pieces = _pieces_of(block, _PIECE_BYTES)
    each = (pieces[start : start + _PIECE_BYTES] for start in range(0, len(pieces), _PIECE_BYTES))
    return sum(_zstd_ratio(piece) <= plan.fresh_ratio + MIN_SAVING for piece in each) <= 1


def _pieces_of(block: Bytes, piece_bytes: int) -> Bytes:
    """Return pieces from all over a block, one after another, each from a multiple of 8 on."""
    if len(block) <= _PIECES * piece_bytes:
        return block
    step = (len(block) - piece_bytes) // (_PIECES - 1) // 8 * 8
    return np.concatenate([block[step * index :][:piece_bytes] for index in range(_PIECES)])


def _zstd_ratio(sample: Bytes) -> float:
    return len(compress(sample.data, ZSTD_LEVEL)) / len(sample)


def _planes_ratio(sample: Bytes, base: Bytes | None, plan: Plan) -> float:
    encoded = encode_planes(sample, base, plan, borrow("sample", len(sample) + SLACK_BYTES))
    return encoded.size_bytes / len(sample)
