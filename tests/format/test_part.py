"""Manifest parts read back as they were written, and damage to them is seen or harmless, never a crash."""

import time

import pytest
from hypothesis import given, settings

from ckptfs.errors import CorruptObjectError, UnsupportedFormatError
from ckptfs.format.keys import pack_key
from ckptfs.format.manifest import Chunk, Entry, Kind, Part
from ckptfs.format.part import decode_part, encode_part
from tests.data.make_golden import LOCAL_PART, PART
from tests.format.strategies import parts

BOTH = pytest.mark.parametrize(("part", "local"), [(PART, False), (LOCAL_PART, True)], ids=["stored", "local"])


@settings(max_examples=150, deadline=None)
@given(parts())
def test_any_part_reads_back_as_it_was_written(part: Part) -> None:
    assert decode_part(encode_part(part)) == part


@settings(max_examples=150, deadline=None)
@given(parts(local=True))
def test_any_local_part_reads_back_as_it_was_written(part: Part) -> None:
    assert decode_part(encode_part(part, local=True), local=True) == part


@BOTH
def test_every_truncation_is_refused(part: Part, local: bool) -> None:
    data = encode_part(part, local=local)
    for size in range(len(data)):
        with pytest.raises(CorruptObjectError):
            decode_part(data[:size], local=local)


@BOTH
def test_an_appended_byte_is_refused(part: Part, local: bool) -> None:
    with pytest.raises(CorruptObjectError):
        decode_part(encode_part(part, local=local) + b"\0", local=local)


@BOTH
def test_every_flipped_bit_is_refused_or_gives_a_part_that_follows_the_rules(part: Part, local: bool) -> None:
    # raw parts carry no hash of their own: a flipped mode bit is another mode, which the stored part's hash shows
    data = encode_part(part, local=local)
    refused = 0
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                other = decode_part(bytes(flipped), local=local)
            except (CorruptObjectError, UnsupportedFormatError):
                refused += 1
                continue
            assert other != part
            assert decode_part(encode_part(other, local=local), local=local) == other
    assert refused > len(data)


def test_equal_chunks_are_stored_once() -> None:
    chunk = Chunk(b"h" * 32, 10, pack_key(1, bytes(16)), 16, 22)
    files = [Entry(path=b"%02d" % i, kind=Kind.FILE, mode=0, size_bytes=10, extents=(chunk,)) for i in range(20)]
    one, all_of_them = (len(encode_part(Part(tuple(files[:count])))) for count in (1, 20))
    assert all_of_them - one == 19 * (56 + 12 + 2)


def test_a_local_part_is_no_stored_part_and_the_other_way_round() -> None:
    with pytest.raises(CorruptObjectError, match="local"):
        decode_part(encode_part(PART), local=True)
    with pytest.raises(CorruptObjectError, match="stored"):
        decode_part(encode_part(LOCAL_PART, local=True))


def test_a_part_of_a_newer_format_asks_for_a_newer_ckptfs() -> None:
    data = bytearray(encode_part(PART))
    data[8:10] = (2).to_bytes(2, "little")
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        decode_part(bytes(data))


def test_a_hundred_thousand_files_take_less_than_a_second_each_way() -> None:
    pack = pack_key(1, bytes(16))
    part = Part(
        tuple(
            Entry(
                path=b"checkpoints/step-%06d/model.safetensors" % index,
                kind=Kind.FILE,
                mode=0o644,
                size_bytes=1000,
                extents=(Chunk(index.to_bytes(32, "big"), 1000, pack, 16 + 900 * index, 900),),
            )
            for index in range(100_000)
        )
    )
    spent = []
    for _ in range(3):
        # processor time: other work on the machine does not count
        start = time.process_time()
        data = encode_part(part)
        middle = time.process_time()
        decoded = decode_part(data)
        spent.append((middle - start, time.process_time() - middle))
        if max(spent[-1]) < 1.0:
            break
    assert min(encoding for encoding, _ in spent) < 1.0
    assert min(decoding for _, decoding in spent) < 1.0
    assert decoded == part
