"""Content that moved within a file is found again where it is now, and nothing is lost by looking for it."""

import os
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from ckptfs.format.manifest import Chunk, Entry, Kind, LocalData
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.cuts import Cuts, ends_of
from tests.transfer.conftest import Bench

MIB = 1 << 20
CHUNK = 64 << 10


class File:
    """A version of a file, cut."""

    def __init__(self, content: bytes, before: "File | None" = None) -> None:
        self.content = content
        known = before.plains if before is not None else {}
        cuts = Cuts(
            before.entry if before is not None else None,
            len(content),
            CHUNK,
            known,
            lambda chunk: ends_of(known[chunk.hash]),
        )
        self.pieces: list[bytes] = []
        offset = 0
        while offset < len(content):
            plain = content[offset : min(cuts.end(offset), len(content))]
            assert 0 < len(plain) <= CHUNK
            size = cuts.keep(offset, memoryview(plain))
            assert 0 < size <= len(plain)
            self.pieces.append(plain[:size])
            offset += size
        self.plains = {hash_bytes(piece): piece for piece in self.pieces}
        self.new_bytes = sum(len(piece) for piece in self.pieces if hash_bytes(piece) not in known)
        chunks = tuple(Chunk(hash_bytes(piece), len(piece), "p/x", 16, len(piece)) for piece in self.pieces)
        self.entry = Entry(path=b"f", kind=Kind.FILE, mode=0o600, size_bytes=len(content), extents=chunks)


def test_without_a_file_before_cuts_are_at_multiples_of_the_chunk_size() -> None:
    file = File(os.urandom(5 * CHUNK + 7))
    assert [len(piece) for piece in file.pieces] == [CHUNK] * 5 + [7]


CHANGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "a byte before everything": (lambda old: b"x" + old, 1),
    "more than a chunk before everything": (lambda old: os.urandom(3 * CHUNK + 5) + old, 4 * CHUNK),
    "bytes inside": (lambda old: old[: 10 * CHUNK + 99] + b"inserted" + old[10 * CHUNK + 99 :], CHUNK + 8),
    "bytes taken out inside": (lambda old: old[: 10 * CHUNK + 99] + old[10 * CHUNK + 300 :], CHUNK),
    "the beginning taken away": (lambda old: old[5 * CHUNK + 3 :], CHUNK),
    "chunks taken out inside": (lambda old: old[: 4 * CHUNK + 9] + old[9 * CHUNK + 1 :], 2 * CHUNK),
    "two places": (lambda old: old[:CHUNK] + b"one" + old[CHUNK : 20 * CHUNK] + b"two" + old[20 * CHUNK :], 6),
    "appended": (lambda old: old + os.urandom(CHUNK), 2 * CHUNK),
    "cut short": (lambda old: old[: 12 * CHUNK + 5], 5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_moved_is_found_again(name: str) -> None:
    change, most_new = CHANGES[name]
    old = File(os.urandom(30 * CHUNK + 1000))
    new = File(change(old.content), old)
    assert b"".join(new.pieces) == new.content
    assert new.new_bytes <= most_new
    # and it is cut the same way when nothing moves any more, and when it moves again
    changed = bytearray(new.content)
    changed[-1] ^= 1
    same = File(bytes(changed), new)
    assert same.new_bytes <= CHUNK
    again = File(change(new.content), new)
    assert b"".join(again.pieces) == again.content
    assert again.new_bytes <= most_new + CHUNK


def test_content_that_repeats_itself_is_not_cut_to_pieces() -> None:
    record = bytes(range(200))
    old = File(record * (40 * CHUNK // 200))
    new = File(b"y" * 11 + record * (40 * CHUNK // 200) + b"z" * 77, old)
    assert b"".join(new.pieces) == new.content
    assert len(new.pieces) < 2 * len(old.pieces)


def test_cuts_that_have_become_many_are_forgotten() -> None:
    # always the same bytes: where there are other probes, cuts may happen to become few before
    file = File(random.Random(1).randbytes(20 * CHUNK))
    counts = []
    for number in range(120):
        at = 200 * number + 100
        file = File(file.content[:at] + b"!" + file.content[at:], file)
        counts.append(len(file.pieces))
    # a quarter of the longest on average
    assert max(counts) <= 4 * 20 + 2
    assert any(later < before // 2 for before, later in pairwise(counts))


@pytest.mark.parametrize("inserted", [1000, 9 * MIB])
def test_a_file_whose_beginning_grew_costs_what_was_inserted(bench: Bench, inserted: int) -> None:
    content = os.urandom(5 * CHUNK_BYTES + 12345)
    (bench.source / "f").write_bytes(content)
    bench.save()
    (bench.source / "f").write_bytes(os.urandom(inserted) + content)
    record = bench.save()
    assert record.bytes_added <= inserted + inserted // 100 + 5000 + (CHUNK_BYTES if inserted > CHUNK_BYTES else 0)
    extents = bench.history().tree(record)[b"f"].extents
    assert not any(isinstance(extent, LocalData) for extent in extents)
    assert sum(extent.size_bytes for extent in extents) == inserted + len(content)
