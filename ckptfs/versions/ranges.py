"""Sets of version numbers as closed ranges, ascending and disjoint (FORMAT.md 3: `gaps` and `dropped`).

Pure.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Ranges = tuple[tuple[int, int], ...]


def contains(ranges: Ranges, number: int) -> bool:
    """Tell whether a number lies in one of the ranges, in O(log n)."""
    return range_of(ranges, number) is not None


def range_of(ranges: Ranges, number: int) -> tuple[int, int] | None:
    """Return the range that holds a number, in O(log n)."""
    index = bisect_right(ranges, number, key=lambda pair: pair[0]) - 1
    return ranges[index] if index >= 0 and number <= ranges[index][1] else None


def union(*many: Iterable[tuple[int, int]]) -> Ranges:
    """Return the numbers of all the ranges, in as few ranges as hold them. Empty ones (high < low) add nothing."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for ranges in many for pair in ranges if pair[0] <= pair[1]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def outside(ranges: Ranges, newest: int) -> Iterator[int]:
    """Yield the numbers from `newest` down to 1 that no range holds."""
    number = newest
    while number >= 1:
        inside = range_of(ranges, number)
        if inside is None:
            yield number
            number -= 1
        else:
            number = inside[0] - 1
