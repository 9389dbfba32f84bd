"""Deduplication: chunks that were stored before are not stored again; no compression.

Fixed chunks of 64 KiB, and content-defined ones of 64 KiB on average: a chunk ends where the gear hash of the last 32
bytes has 16 zero bits at its top (Xia et al., FastCDC, ATC 2016, without its normalization), from 16 to 256 KiB.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ckptfs.hashing import hash_bytes

_FIXED_BYTES = 64 << 10
_LEAST_BYTES, _MOST_BYTES = 16 << 10, 256 << 10
_MEAN_BITS = 16
_WINDOW_BYTES = 32
_SLICE_BYTES = 16 << 20

Cut = Callable[[bytes], Iterator[int]]
"""Yields where the chunks of a file end."""


class Dedup:
    """A store of chunks.

    Args:
        cut: Where chunks end.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._known: set[bytes] = set()

    def add(self, files: Sequence[bytes]) -> int:
        """Store files; return the size of the chunks that are new (bytes)."""
        added = 0
        for content in files:
            start = 0
            for end in self._cut(content):
                digest = hash_bytes(content[start:end])
                if digest not in self._known:
                    self._known.add(digest)
                    added += end - start
                start = end
        return added


def cut_fixed(content: bytes) -> Iterator[int]:
    """Yield the ends of chunks of one size."""
    yield from range(_FIXED_BYTES, len(content), _FIXED_BYTES)
    if content:
        yield len(content)


def cut_by_content(content: bytes) -> Iterator[int]:
    """Yield the ends of content-defined chunks."""
    start = 0
    for end in _candidates(content):
        while end - start > _MOST_BYTES:
            start += _MOST_BYTES
            yield start
        if end - start >= _LEAST_BYTES:
            start = end
            yield start
    while len(content) - start > _MOST_BYTES:
        start += _MOST_BYTES
        yield start
    if start < len(content):
        yield len(content)


def _candidates(content: bytes) -> Iterator[int]:
    """Yield where the gear hash has zeros, ascending."""
    data = np.frombuffer(content, np.uint8)
    gear = np.random.default_rng(0).integers(0, 1 << 32, 256, dtype=np.uint32)
    limit = np.uint32(1 << (32 - _MEAN_BITS))
    for begin in range(0, len(data), _SLICE_BYTES):
        # a slice begins early by the window, so that hashes do not depend on where slices begin
        early = max(0, begin - _WINDOW_BYTES)
        hashes = _gear_hashes(gear[data[early : begin + _SLICE_BYTES]])[begin - early :]
        for place in np.flatnonzero(hashes < limit).tolist():
            yield begin + place + 1


def _gear_hashes(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return for each place the sum of the last 32 values, each shifted by its distance; modulo 2^32."""
    hashes = values
    reach = 1
    while reach < _WINDOW_BYTES:
        # a window of 2n is one of n, and the one before it shifted by n
        longer = hashes.copy()
        longer[reach:] += hashes[:-reach] << np.uint32(reach)
        hashes = longer
        reach *= 2
    return hashes


METHODS: dict[str, Cut] = {"dedup, 64 KiB": cut_fixed, "dedup, by content": cut_by_content}
"""By the name that is shown."""
