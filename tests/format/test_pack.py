"""Packs: an index can be rebuilt from their end alone, and damage to it is seen."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.codec import frame as codec_frame
from ckptfs.errors import CorruptObjectError, UnsupportedFormatError
from ckptfs.format import pack as format_pack
from ckptfs.format.pack import PackBuilder, PackRow, decode_trailer
from ckptfs.hashing import hash_bytes

FRAMES = st.lists(st.binary(min_size=13, max_size=40), max_size=8)


def build(frames: list[bytes]) -> tuple[bytes, list[PackRow]]:
    builder = PackBuilder()
    rows = []
    for frame in frames:
        digest = hash_bytes(frame)
        rows.append(PackRow(digest, builder.add(frame, digest, len(frame)), len(frame), len(frame)))
    assert len(builder) == len(frames)
    data = builder.finish()
    assert builder.size_bytes == len(data)
    return data, rows


def raw_pack(rows: list[tuple[bytes, int, int, int]], *, frames: bytes = b"", header: bytes | None = None) -> bytes:
    """A pack laid out by hand as docs/FORMAT.md section 5 says."""
    table = b"".join(struct.pack("<32sIII", *row) for row in rows)
    start = struct.pack("<8sH6x", b"ckptfsP1", 1) if header is None else header
    return start + frames + table + struct.pack("<II32s8s", len(rows), 0, hash_bytes(table), b"ckptfsPT")


@settings(max_examples=100, deadline=None)
@given(FRAMES)
def test_the_table_tells_where_every_frame_is(frames: list[bytes]) -> None:
    data, rows = build(frames)
    assert decode_trailer(data) == rows
    assert [data[row.offset_bytes :][: row.stored_bytes] for row in rows] == frames


def test_the_layout_is_that_of_the_document() -> None:
    frames = [b"f" * 13, b"g" * 20]
    rows = [(hash_bytes(frames[0]), 16, 13, 13), (hash_bytes(frames[1]), 29, 20, 20)]
    assert build(frames)[0] == raw_pack(rows, frames=b"".join(frames))


def test_the_end_of_a_pack_is_enough() -> None:
    data, rows = build([b"f" * 100, b"g" * 100])
    trailer_bytes = 2 * 44 + 48
    for size in range(trailer_bytes, len(data) + 1):
        assert decode_trailer(data[-size:]) == rows
    for size in range(trailer_bytes):
        with pytest.raises(CorruptObjectError):
            decode_trailer(data[len(data) - size :])


def test_every_truncation_is_refused() -> None:
    data, _ = build([b"f" * 13, b"g" * 14])
    for size in range(len(data)):
        with pytest.raises(CorruptObjectError):
            decode_trailer(data[:size])


def test_every_flipped_bit_outside_of_frames_and_reserved_fields_is_seen() -> None:
    data, rows = build([b"f" * 13, b"g" * 14])
    table = len(data) - 2 * 44 - 48
    reserved = {*range(10, 16), *range(len(data) - 44, len(data) - 40)}
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            if position in reserved or 16 <= position < table:
                assert decode_trailer(bytes(flipped)) == rows
            else:
                with pytest.raises((CorruptObjectError, UnsupportedFormatError)):
                    decode_trailer(bytes(flipped))


@pytest.mark.parametrize(
    "rows",
    [
        [(b"h" * 32, 15, 13, 13)],
        [(b"h" * 32, 17, 13, 13)],
        [(b"h" * 32, 16, 12, 13)],
        [(b"h" * 32, 16, 13, 0)],
        [(b"h" * 32, 16, 13, (64 << 20) + 1)],
        [(b"h" * 32, 16, 13 + 65548, 13)],
        [(b"h" * 32, 16, 13, 13), (b"h" * 32, 16, 13, 13)],
        [(b"h" * 32, 16, 13, 13), (b"h" * 32, 30, 13, 13)],
        [(b"h" * 32, 16, 0xFFFFFFFF, 13)],
    ],
)
def test_rows_that_are_no_frames_one_after_another_are_refused(rows: list[tuple[bytes, int, int, int]]) -> None:
    with pytest.raises(CorruptObjectError):
        decode_trailer(raw_pack(rows, frames=bytes(13 * len(rows))))


def test_a_table_that_is_not_where_the_frames_end_is_refused() -> None:
    with pytest.raises(CorruptObjectError):
        decode_trailer(raw_pack([(b"h" * 32, 16, 13, 13)], frames=bytes(14)))


def test_a_huge_count_is_refused() -> None:
    footer = struct.pack("<II32s8s", 0xFFFFFFFF, 0, hash_bytes(b""), b"ckptfsPT")
    with pytest.raises(CorruptObjectError):
        decode_trailer(bytes(1000) + footer)


def test_a_pack_of_a_newer_format_asks_for_a_newer_ckptfs() -> None:
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        decode_trailer(raw_pack([], header=struct.pack("<8sH6x", b"ckptfsP1", 2)))


@pytest.mark.parametrize(
    ("frame", "digest", "raw_bytes"),
    [
        (b"f" * 12, b"h" * 32, 1),
        (b"f" * 13, b"h" * 31, 1),
        (b"f" * 13, b"h" * 32, 0),
        (b"f" * 13, b"h" * 32, (64 << 20) + 1),
        (b"f" * (13 + 65548), b"h" * 32, 13),
    ],
)
def test_what_is_no_frame_is_not_added(frame: bytes, digest: bytes, raw_bytes: int) -> None:
    builder = PackBuilder()
    with pytest.raises(CorruptObjectError):
        builder.add(frame, digest, raw_bytes)
    assert len(builder) == 0


def test_a_pack_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_pack, "MAX_PACK_BYTES", 16 + 48 + 2 * (20 + 44))
    builder = PackBuilder()
    for _ in range(2):
        builder.add(b"f" * 20, b"h" * 32, 20)
    with pytest.raises(CorruptObjectError):
        builder.add(b"f" * 20, b"h" * 32, 20)
    assert len(builder.finish()) == format_pack.MAX_PACK_BYTES


def test_packs_and_frames_agree_on_their_limits() -> None:
    # the two layers know nothing of each other, and state the document's numbers twice
    assert codec_frame.HEADER.size == format_pack.FRAME_HEADER_BYTES
    assert format_pack.MAX_CHUNK_BYTES == codec_frame.MAX_CHUNK_BYTES
