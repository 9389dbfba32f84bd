"""What a file's ranges are offered as bases: the same place of the file that it continues."""

import os
import time

import pytest

from ckptfs.cache.anchors import MIN_ANCHOR_BYTES
from ckptfs.format.manifest import Chunk, Entry, Extent, Hole, Kind, Tree
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.bases import Bases, Predecessors

MIB = 1 << 20


def chunk(number: int, size: int, base: Chunk | None = None) -> Chunk:
    return Chunk(bytes([number]) * 32, size, f"p/{number}", 16, size, base)


def entry(path: bytes, *extents: Extent) -> Entry:
    size = sum(extent.size_bytes for extent in extents)
    return Entry(path=path, kind=Kind.FILE, mode=0o600, size_bytes=size, extents=extents)


def tree(*entries: Entry) -> Tree:
    return {found.path: found for found in entries}


def test_a_range_is_offered_the_chunk_of_the_same_place() -> None:
    first, second = chunk(1, 4 * MIB), chunk(2, 4 * MIB)
    bases = Bases(entry(b"f", first, second))
    assert (bases.at(0), bases.at(4 * MIB)) == (first, second)


def test_a_chunk_that_has_a_base_offers_that() -> None:
    anchor = chunk(1, 4 * MIB)
    bases = Bases(entry(b"f", chunk(2, 4 * MIB, anchor)))
    assert bases.at(0) == anchor


def test_what_was_appended_is_offered_the_last_chunk_and_what_lies_further_out_is_not() -> None:
    last = chunk(1, MIB)
    bases = Bases(entry(b"f", last))
    assert bases.at(4 * MIB) == last
    assert bases.at(8 * MIB) is None


def test_holes_and_small_chunks_offer_nothing() -> None:
    assert Bases(entry(b"f", Hole(4 * MIB))).at(0) is None
    assert Bases(entry(b"f", chunk(1, MIN_ANCHOR_BYTES - 1))).at(0) is None
    assert Bases(None).at(0) is None


def test_the_file_of_the_same_path_is_continued() -> None:
    before = tree(entry(b"a-1", chunk(1, MIB)), entry(b"a-2", chunk(2, MIB)))
    assert Predecessors(before).of(b"a-1", 5) == before[b"a-1"]


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        (b"checkpoint-1000/model", MIB, b"checkpoint-900/model"),
        (b"checkpoint-1000/model", 2 * MIB, b"checkpoint-100/model"),
        (b"checkpoint-1000/optimizer", MIB, None),
    ],
    ids=["the last", "the one of the same size", "none"],
)
def test_a_new_path_continues_one_that_differs_in_numbers_only(path: bytes, size: int, expected: bytes | None) -> None:
    before = tree(
        entry(b"checkpoint-100/model", chunk(1, 2 * MIB)),
        entry(b"checkpoint-200/model", chunk(2, MIB)),
        entry(b"checkpoint-900/model", chunk(3, MIB)),
    )
    found = Predecessors(before).of(path, size)
    assert (found.path if found is not None else None) == expected


def test_a_file_of_another_name_that_begins_with_the_same_chunk_is_continued() -> None:
    data = os.urandom(MIB)
    first = chunk(1, MIB)._replace(hash=hash_bytes(data))
    before = tree(
        entry(b"alone", first),
        entry(b"log", first, chunk(2, 5000)),
        entry(b"log.longer", first, chunk(3, 9000)),
        entry(b"other", chunk(4, MIB // 2), chunk(5, MIB)),
        entry(b"small", chunk(6, 100), chunk(7, 100)),
    )
    read: list[int] = []

    def of(size: int, content: bytes = data, path: bytes = b"copy") -> Entry | None:
        def head(size_bytes: int) -> bytes:
            read.append(size_bytes)
            return content[:size_bytes]

        return Predecessors(before).of(path, size, head)

    assert of(MIB + 5000) == before[b"log"]
    assert of(MIB + 1) == before[b"log.longer"]
    assert of(MIB + 5000, data[::-1]) is None
    assert of(MIB + 5000, b"") is None
    assert of(MIB - 1) is None
    assert read == [MIB, MIB, MIB, MIB, MIB // 2]
    assert of(1000) is None
    assert len(read) == 5, "nothing of a small file is read"
    # another file is written over one that there was
    assert of(MIB + 5000, path=b"other") == before[b"log"]
    assert of(MIB + 5001, path=b"other") == before[b"other"]
    assert of(MIB + MIB // 2, path=b"other") == before[b"other"]
    assert len(read) == 7, "nothing of a file of the size that it had is read"


def test_a_path_that_was_a_directory_continues_nothing() -> None:
    assert Predecessors({b"d": Entry(path=b"d", kind=Kind.DIRECTORY, mode=0o700)}).of(b"d", 1) is None


def test_numbers_of_any_length_are_compared() -> None:
    nines, more = b"s" + b"9" * 5000, b"s1" + b"0" * 5000
    before = tree(entry(nines, chunk(1, MIB)), entry(more, chunk(2, MIB)))
    assert Predecessors(before).of(b"s7", MIB) == before[more]


def test_many_new_files_beside_many_alike_are_each_found_what_they_continue_without_looking_at_all_of_them() -> None:
    count = 5_000
    predecessors = Predecessors(tree(*(entry(b"image-%d" % number, chunk(1, MIB)) for number in range(count))))
    began_s = time.process_time()
    found = {predecessors.of(b"image-%d" % number, MIB) for number in range(count, 2 * count)}
    took_s = time.process_time() - began_s
    assert [last.path for last in found if last is not None] == [b"image-%d" % (count - 1)]
    assert took_s < 3, "0.05 s; a look at every file for every file takes 17"
