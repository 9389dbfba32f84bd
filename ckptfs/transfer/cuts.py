"""Where a file is cut into chunks: as the file that it continues was cut, wherever that's content is now.

Chunks of one size make a change of the size of the file's beginning a change of all of it. So when a file has another
size than the one that it continues, and a chunk of it is new, the first and last bytes of the next chunks of that file
are looked for in it. Where some are found the file is cut, and from there on all is as far off as that: chunks are the
same again, and what changed a little is encoded against what it was.

What decides is content; that bytes of the old file are on local disk to be looked for is needed (cache/anchors.py).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from ckptfs.format.manifest import Chunk, Entry
from ckptfs.hashing import hash_bytes

PROBE_BYTES = 64
"""Looked for: 0.4 ms in 4 MiB. Fewer bytes take longer to find, and occur by chance."""
# 32 MiB that were taken out are recognized; each chunk ahead takes decoding, once
_CHUNKS_AHEAD = 8
# chunks in a row that are new, cut or not: 32 MiB that were put in; then the content is new, and not moved
_MOST_FRUITLESS = 8
# of a probe: one that is a run of equal bytes is found anywhere
_FEWEST_VALUES = 8
# of the longest chunk: when cuts have made them shorter on average, the file is cut anew
_SHORTEST_MEAN = 0.25
_FEW_CHUNKS = 16


class Ends(NamedTuple):
    """The ends of a chunk, or of what was there before it."""

    first: bytes
    """PROBE_BYTES."""
    last: bytes
    """PROBE_BYTES."""


EndsOf = Callable[[Chunk], Ends | None]
"""Returns the ends of a chunk; None if they cannot be had."""


class Cuts:
    """The cuts of one file.

    Args:
        before: The file that it continues; None: there is none.
        size_bytes: Of the file.
        chunk_bytes: The longest chunk.
        known: Hashes of stored chunks.
        ends_of: For chunks of `before`.
    """

    def __init__(
        self, before: Entry | None, size_bytes: int, chunk_bytes: int, known: Container[bytes], ends_of: EndsOf
    ) -> None:
        self.shift_bytes = 0
        """How much further back the content is here than in `before`, as far as is known."""
        self._chunk_bytes = chunk_bytes
        self._known = known
        self._ends_of = ends_of
        self._starts: list[int] = []
        self._chunks: list[Chunk] = []
        start = 0
        for extent in before.extents if before is not None else ():
            if isinstance(extent, Chunk):
                self._starts.append(start)
                self._chunks.append(extent)
            start += extent.size_bytes
        count = len(self._chunks)
        if (
            count > _FEW_CHUNKS
            and sum(chunk.size_bytes for chunk in self._chunks) < _SHORTEST_MEAN * chunk_bytes * count
        ):
            self._starts, self._chunks = [], []
        self._may_shift = before is not None and before.size_bytes != size_bytes
        self._starts_of: dict[bytes, list[int]] = {}
        if self._may_shift:
            for start, chunk in zip(self._starts, self._chunks, strict=True):
                self._starts_of.setdefault(chunk.hash, []).append(start)
        self._ends: dict[int, Ends | None] = {}
        self._next = 0
        """The first chunk of `before` that has not been met here."""
        self._fruitless = 0

    def end(self, offset_bytes: int) -> int:
        """Return where a chunk that begins at an offset ends at the latest."""
        place = offset_bytes - self.shift_bytes
        index = bisect_right(self._starts, place)
        if index < len(self._starts):
            limit = self._starts[index]
        else:
            limit = place + self._chunk_bytes
        # after a chunk that is shorter than others, or a hole, the grid goes on from the last cut
        origin = self._starts[index - 1] if index else min(place, 0)
        grid = origin + ((place - origin) // self._chunk_bytes + 1) * self._chunk_bytes
        return min(limit, grid, place + self._chunk_bytes) + self.shift_bytes

    def keep(self, offset_bytes: int, plain: memoryview) -> int:
        """Look at a chunk that is about to be stored.

        Args:
            offset_bytes: Where it begins.
            plain: Its bytes, up to `end` or the next hole.

        Returns:
            How many of its bytes are to be a chunk: all, or those before a place where to cut.
        """
        if not self._may_shift or self._fruitless >= _MOST_FRUITLESS or not self._chunks:
            return len(plain)
        digest = hash_bytes(plain)
        if digest in self._known:
            self._fruitless = 0
            self._met(digest, offset_bytes)
            return len(plain)
        content = bytes(plain)
        for start, at in self._find(content):
            shift = offset_bytes + at - start
            if shift != self.shift_bytes:
                # until a chunk is the same again it may have been found by chance
                self._fruitless += 1
                self.shift_bytes = shift
                index = bisect_left(self._starts, start)
                return at or min(
                    len(plain), self._chunks[index].size_bytes if index < len(self._chunks) else len(plain)
                )
            # where it was: what is new here comes before or after it
            self._next = bisect_left(self._starts, start)
        self._fruitless += 1
        return len(plain)

    def _met(self, digest: bytes, offset_bytes: int) -> None:
        """A chunk is the same as before, there or elsewhere."""
        expected = offset_bytes - self.shift_bytes
        starts = self._starts_of.get(digest)
        if starts is not None:
            start = min(starts, key=lambda start: abs(start - expected))
            self.shift_bytes = offset_bytes - start
            self._next = bisect_right(self._starts, start)

    def _find(self, content: bytes) -> Iterator[tuple[int, int]]:
        """Yield places of the file before where a chunk begins or ends, and where in some content they are now."""
        for index in range(self._next, min(self._next + _CHUNKS_AHEAD, len(self._starts))):
            ends = self._ends_at(index)
            if ends is None:
                continue
            start = self._starts[index]
            at = content.find(ends.first)
            if at >= 0:
                yield start, at
            at = content.find(ends.last)
            if at >= 0 and at + PROBE_BYTES < len(content):
                yield start + self._chunks[index].size_bytes, at + PROBE_BYTES

    def _ends_at(self, index: int) -> Ends | None:
        if index not in self._ends:
            ends = self._ends_of(self._chunks[index])
            is_telling = ends is not None and all(len(set(probe)) >= _FEWEST_VALUES for probe in ends)
            self._ends[index] = ends if is_telling else None
        return self._ends[index]


def ends_of(plain: bytes) -> Ends | None:
    """Return the ends of a chunk; None for one that is too short."""
    return Ends(plain[:PROBE_BYTES], plain[-PROBE_BYTES:]) if len(plain) >= 2 * PROBE_BYTES else None
