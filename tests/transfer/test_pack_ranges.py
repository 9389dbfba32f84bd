"""Planning reads: every chunk once, few requests, bounded ones, in the order of need."""

import hashlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ckptfs.format.manifest import Chunk
from ckptfs.transfer.pack_ranges import (
    MAX_GAP_BYTES,
    MAX_GROUP_BYTES,
    MAX_RANGE_BYTES,
    plan_ranges,
    plan_reads,
    split_range,
)


def chunk(pack: str, offset: int, size: int) -> Chunk:
    return Chunk(hashlib.sha256(f"{pack} {offset}".encode()).digest(), size, pack, offset, size)


@st.composite
def packed_chunks(draw: st.DrawFn) -> list[Chunk]:
    """Chunks of a few packs without overlap, wanted in any order, some of them several times."""
    chunks = []
    for pack in ("p/1", "p/2"):
        offset = 16
        for gap, size in draw(
            st.lists(
                st.tuples(st.sampled_from([0, 1, MAX_GAP_BYTES - 1, MAX_GAP_BYTES]), st.integers(1, 6 << 20)),
                max_size=12,
            )
        ):
            offset += gap
            chunks.append(chunk(pack, offset, size))
            offset += size
    return draw(st.permutations(chunks)) + (draw(st.lists(st.sampled_from(chunks), max_size=5)) if chunks else [])


@given(packed_chunks())
def test_every_chunk_is_in_exactly_one_range_which_covers_it(chunks: list[Chunk]) -> None:
    spans = plan_ranges(chunks)
    members = [member for span in spans for member in span.chunks]
    assert sorted(members) == sorted(set(chunks))
    for span in spans:
        assert span.offset_bytes == span.chunks[0].offset_bytes
        assert all(
            member.pack == span.pack
            and member.offset_bytes + member.stored_bytes <= span.offset_bytes + span.size_bytes
            for member in span.chunks
        )


@given(packed_chunks())
def test_ranges_are_bounded_and_as_few_as_the_bounds_allow(chunks: list[Chunk]) -> None:
    spans = plan_ranges(chunks)
    for span in spans:
        assert span.size_bytes <= MAX_RANGE_BYTES
    for before, after in pairwise(sorted(spans, key=lambda span: (span.pack, span.offset_bytes))):
        if before.pack == after.pack:
            gap = after.offset_bytes - before.offset_bytes - before.size_bytes
            joined = after.chunks[0].offset_bytes + after.chunks[0].stored_bytes - before.offset_bytes
            assert gap >= MAX_GAP_BYTES or joined > MAX_RANGE_BYTES


@given(packed_chunks())
def test_ranges_come_in_the_order_in_which_they_are_first_needed(chunks: list[Chunk]) -> None:
    needed = [min(chunks.index(member) for member in span.chunks) for span in plan_ranges(chunks)]
    assert needed == sorted(needed)


def test_a_single_frame_above_the_bound_is_a_range_of_its_own() -> None:
    small, large = chunk("p/1", 16, 100), chunk("p/1", 116, MAX_RANGE_BYTES + 1)
    assert [span.size_bytes for span in plan_ranges([small, large])] == [100, MAX_RANGE_BYTES + 1]


def test_a_range_splits_into_one_request_for_each_of_its_chunks() -> None:
    first, second = chunk("p/1", 16, 100), chunk("p/1", 200, 50)
    (span,) = plan_ranges([first, second])
    assert [(part.offset_bytes, part.size_bytes, part.chunks) for part in split_range(span)] == [
        (16, 100, (first,)),
        (200, 50, (second,)),
    ]


@st.composite
def dependent_chunks(draw: st.DrawFn) -> list[Chunk]:
    """Chunks of which some are encoded against others, wanted or not."""
    chunks = draw(packed_chunks())
    anchors = [chunk("p/3", 16 + (number << 20), 1 << 20)._replace(size_bytes=3 << 20) for number in range(6)]
    based = [
        member._replace(base=anchors[draw(st.integers(0, len(anchors) - 1))]) if draw(st.booleans()) else member
        for member in dict.fromkeys(chunks)
    ]
    return draw(st.permutations(based + draw(st.lists(st.sampled_from(anchors), max_size=3))))


@given(dependent_chunks())
def test_every_chunk_and_every_base_is_read_once_and_a_base_before_what_needs_it(chunks: list[Chunk]) -> None:
    read: list[Chunk] = []
    for group in plan_reads(chunks):
        bases = group.bases.chunks if group.bases is not None else ()
        members = [member for span in group.ranges for member in span.chunks]
        assert {member.base for member in members} - {None} == set(bases)
        assert bases or len(group.ranges) == 1
        read += [*bases, *members]
    assert len(read) == len(set(read))
    assert set(read) == set(chunks) | {member.base for member in chunks if member.base is not None}


@given(dependent_chunks())
def test_the_bases_of_a_group_are_bounded(chunks: list[Chunk]) -> None:
    for group in plan_reads(chunks):
        if group.bases is not None and len(group.bases.chunks) > 1:
            assert sum(base.size_bytes for base in group.bases.chunks) <= MAX_GROUP_BYTES
