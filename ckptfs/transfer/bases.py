"""Finding what a file's ranges can be encoded against: the file of the version before that it most likely continues.

A wrong guess costs time and no bytes: the encoder uses a base only where it helps.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable

from ckptfs.cache.anchors import anchor_of
from ckptfs.format.manifest import Chunk, Entry, Kind, Tree
from ckptfs.hashing import hash_bytes

_NUMBER = re.compile(rb"\d+")
# one chunk past the end: what was appended may repeat what came before, what lies further out rarely does
_PAST_END_BYTES = 4 << 20
# of a chunk that says which file it is the beginning of; those before it are shorter together
_FEWEST_BEGINNING_BYTES = 64 << 10
# how many such ranges are looked at in a new file: 4 MiB each at the most, which takes 1 ms
_MOST_BEGINNINGS = 8


class Bases:
    """The anchors of one file of the version before, by their places.

    Args:
        entry: The file; None: there is none to continue.
    """

    def __init__(self, entry: Entry | None) -> None:
        self._starts: list[int] = []
        self._places: list[tuple[int, Chunk]] = []
        """End of the range that the anchor stands for, and the anchor."""
        start = 0
        for extent in entry.extents if entry is not None else ():
            end = start + extent.size_bytes
            anchor = anchor_of(extent) if isinstance(extent, Chunk) else None
            if anchor is not None:
                self._starts.append(start)
                self._places.append((end, anchor))
            start = end

    def at(self, offset_bytes: int) -> Chunk | None:
        """Return the anchor for the range that begins at an offset: the last that begins there or shortly before."""
        index = bisect_right(self._starts, offset_bytes) - 1
        if index < 0:
            return None
        end, anchor = self._places[index]
        return anchor if offset_bytes < end + _PAST_END_BYTES else None


class Predecessors:
    """Which file of the version before a file of the new version continues."""

    def __init__(self, before: Tree) -> None:
        self._before = before
        self._last: dict[tuple[bytes, int | None], Entry] | None = None
        self._beginnings: _Beginnings | None = None

    def of(self, path: bytes, size_bytes: int, head: Callable[[int], bytes] = lambda size_bytes: b"") -> Entry | None:
        """Return the file of the same path; else one whose path differs in numbers only (`checkpoint-200/model` after
        `checkpoint-100/model`), of the same size if there is one, and the last of those; else None.

        A file that begins with the same chunk, as the original of a copy does, comes before one of another size if it
        has the same size itself, and before None.

        Args:
            head: Returns so many of its first bytes, or none if they cannot be had.
        """
        named = self._named(path, size_bytes)
        if named is not None and named.size_bytes == size_bytes:
            return named
        alike = self._alike(size_bytes, head)
        return alike if alike is not None and (named is None or alike.size_bytes == size_bytes) else named

    def _named(self, path: bytes, size_bytes: int) -> Entry | None:
        same = self._before.get(path)
        if same is not None and same.kind is Kind.FILE:
            return same
        shape, last = _shape(path), self._last_by_shape()
        return last.get((shape, size_bytes)) or last.get((shape, None))

    def _alike(self, size_bytes: int, head: Callable[[int], bytes]) -> Entry | None:
        if self._beginnings is None:
            self._beginnings = _Beginnings(self._before)
        return self._beginnings.find(size_bytes, head)

    def _last_by_shape(self) -> dict[tuple[bytes, int | None], Entry]:
        """Return, by shape and size (None: any), the file of the highest numbers.

        Looked for once, and not for each file: 10,000 numbered files beside as many take 10,000 looks, not 100,000,000.
        """
        if self._last is None:
            highest: dict[tuple[bytes, int | None], tuple[list[tuple[int, bytes]], Entry]] = {}
            for path, entry in self._before.items():
                if entry.kind is Kind.FILE and entry.size_bytes:
                    shape, numbers = _shape(path), _numbers(path)
                    for key in ((shape, entry.size_bytes), (shape, None)):
                        if key not in highest or numbers > highest[key][0]:
                            highest[key] = (numbers, entry)
            self._last = {key: entry for key, (_, entry) in highest.items()}
        return self._last


class _Beginnings:
    """Files of several chunks by the first of them that is not tiny, as one is that was cut off by an insertion."""

    def __init__(self, before: Tree) -> None:
        self._files: dict[tuple[bytes, int | None], Entry] = {}
        """By its hash, and the file's size (None: any)."""
        counts: Counter[tuple[int, int]] = Counter()
        for entry in before.values():
            start, extents = 0, entry.extents if len(entry.extents) > 1 else ()
            for extent in extents:
                if isinstance(extent, Chunk) and extent.size_bytes >= _FEWEST_BEGINNING_BYTES:
                    self._files[extent.hash, entry.size_bytes] = self._files[extent.hash, None] = entry
                    counts[start, start + extent.size_bytes] += 1
                start += extent.size_bytes
                if start >= _FEWEST_BEGINNING_BYTES:
                    break
        self._ranges = [span for span, _ in counts.most_common(_MOST_BEGINNINGS)]

    def find(self, size_bytes: int, head: Callable[[int], bytes]) -> Entry | None:
        ranges = [(start, end) for start, end in self._ranges if end <= size_bytes]
        content = memoryview(head(max(end for _, end in ranges)) if ranges else b"")
        for start, end in ranges:
            digest = hash_bytes(content[start:end])
            found = self._files.get((digest, size_bytes)) or self._files.get((digest, None))
            if found is not None:
                return found
        return None


def _shape(path: bytes) -> bytes:
    return _NUMBER.sub(b"0", path)


def _numbers(path: bytes) -> list[tuple[int, bytes]]:
    """Return the numbers of a path in a form that compares as they do, however many digits they have."""
    stripped = (digits.lstrip(b"0") for digits in _NUMBER.findall(path))
    return [(len(digits), digits) for digits in stripped]
