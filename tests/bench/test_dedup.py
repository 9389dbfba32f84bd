"""Chunks of the deduplication that ckptfs is compared with."""

import random

import pytest

from bench.versions.dedup import Cut, Dedup, cut_by_content, cut_fixed


@pytest.mark.parametrize("cut", [cut_fixed, cut_by_content])
@pytest.mark.parametrize("size_bytes", [0, 1, 65_536, 65_537, 3_000_000])
@pytest.mark.parametrize("is_random", [True, False])
def test_chunks_cover_a_file_once(cut: Cut, size_bytes: int, is_random: bool) -> None:
    content = random.Random(0).randbytes(size_bytes) if is_random else bytes(size_bytes)
    ends = list(cut(content))
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 0) == size_bytes
    assert max((end - start for start, end in zip([0, *ends], ends, strict=False)), default=0) <= 256 << 10


def test_content_defined_chunks_are_64_kib_on_average_and_found_again_after_an_insert() -> None:
    content = random.Random(1).randbytes(20 << 20)
    count = len(list(cut_by_content(content)))
    assert 40 << 10 < len(content) / count < 100 << 10
    dedup = Dedup(cut_by_content)
    assert dedup.add([content]) == len(content)
    assert dedup.add([content]) == 0
    assert dedup.add([b"inserted" + content]) < 600 << 10


def test_fixed_chunks_are_lost_by_an_insert() -> None:
    content = random.Random(2).randbytes(2 << 20)
    dedup = Dedup(cut_fixed)
    dedup.add([content])
    assert dedup.add([b"inserted" + content]) == len(content) + 8
