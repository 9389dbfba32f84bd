"""Closed ranges of version numbers, against sets of integers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ckptfs.versions import ranges

pairs = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)))


def numbers_of(many: list[tuple[int, int]] | ranges.Ranges) -> set[int]:
    return {number for low, high in many for number in range(low, high + 1)}


@given(pairs, pairs)
def test_a_union_holds_the_numbers_of_both_and_no_others(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    assert numbers_of(ranges.union(first, second)) == numbers_of(first) | numbers_of(second)


@given(pairs)
def test_a_union_is_ascending_with_a_number_between_any_two_ranges(many: list[tuple[int, int]]) -> None:
    merged = ranges.union(many)
    assert all(low <= high for low, high in merged)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(merged))


@given(pairs, st.integers(0, 41))
def test_containing_is_being_in_one_of_the_ranges(many: list[tuple[int, int]], number: int) -> None:
    merged = ranges.union(many)
    assert ranges.contains(merged, number) == (number in numbers_of(merged))


@given(pairs, st.integers(0, 41))
def test_the_numbers_outside_come_in_descending_order(many: list[tuple[int, int]], newest: int) -> None:
    merged = ranges.union(many)
    assert list(ranges.outside(merged, newest)) == sorted(set(range(1, newest + 1)) - numbers_of(merged), reverse=True)
