"""Frames: what was encoded comes back, and nothing else ever does."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptfs.codec.frame
from ckptfs.codec.frame import MAX_CHUNK_BYTES, decode_frame, encode_frame
from ckptfs.codec.zstd import compress
from ckptfs.errors import ChunkCorruptError, CorruptObjectError
from ckptfs.hashing import hash_bytes

NOISE = random.Random(0).randbytes(1 << 20)
TEXT = b"step 100 loss 0.125\n" * 100


def decode(frame: bytes, plain: bytes) -> bytes:
    return decode_frame(frame, size_bytes=len(plain), digest=hash_bytes(plain))


def raw_frame(codec: int, payload: bytes, *, flags: int = 0, params: bytes = b"", raw: int, said: int = -1) -> bytes:
    """A frame laid out by hand as docs/FORMAT.md section 5.1 says."""
    size = len(payload) if said < 0 else said
    return struct.pack("<BBHII", codec, flags, len(params), raw, size) + params + payload


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.binary(min_size=1, max_size=3000), st.binary(min_size=1, max_size=9).map(lambda piece: piece * 300))
)
def test_any_chunk_comes_back(plain: bytes) -> None:
    frame = encode_frame(plain)
    assert decode(frame, plain) == plain
    assert len(frame) <= len(plain) + 12


@pytest.mark.parametrize("plain", [NOISE, TEXT * 500, NOISE[: 1 << 17] + bytes(1 << 19), NOISE[:1], bytes(1 << 20)])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_gives_the_same_frame(plain: bytes, kind: type) -> None:
    frame = encode_frame(kind(plain))
    assert frame == encode_frame(plain)
    decoded = decode_frame(kind(frame), size_bytes=len(plain), digest=hash_bytes(plain))
    assert type(decoded) is bytes
    assert decoded == plain


def test_the_layout_is_that_of_the_document() -> None:
    assert encode_frame(NOISE) == raw_frame(0, NOISE, raw=len(NOISE))
    assert encode_frame(TEXT) == raw_frame(1, compress(TEXT), raw=len(TEXT))


def test_a_chunk_that_saves_little_is_stored_raw() -> None:
    for zeros, codec in ((20, 0), (60, 1)):
        plain = NOISE[: 1000 - zeros] + bytes(zeros)
        assert encode_frame(plain)[0] == codec


def test_zstd_is_not_tried_on_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def counting(data: bytes, level: int) -> bytes:
        tried.append(len(data))
        return compress(data, level)

    monkeypatch.setattr(ckptfs.codec.frame, "compress", counting)
    assert encode_frame(NOISE)[0] == 0
    assert max(tried) <= 64 << 10
    assert encode_frame(TEXT * 1000)[0] == 1
    assert max(tried) == len(TEXT) * 1000


@pytest.mark.parametrize("payload", [compress(TEXT[:-1] + b"x"), compress(TEXT[:-1]), b"garbage"])
def test_what_the_compressor_got_wrong_is_not_handed_out(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckptfs.codec.frame, "compress", lambda data, level: payload)
    with pytest.raises(CorruptObjectError):
        encode_frame(TEXT)


@pytest.mark.parametrize("size", [0, MAX_CHUNK_BYTES + 1])
def test_a_chunk_of_an_impossible_length_is_not_encoded(size: int) -> None:
    with pytest.raises(CorruptObjectError):
        encode_frame(bytes(size))


@pytest.mark.parametrize("plain", [NOISE[:50], TEXT], ids=["raw", "zstd"])
def test_every_flipped_bit_and_every_truncation_is_seen_or_harmless(plain: bytes) -> None:
    frame = encode_frame(plain)
    seen = 0
    for position in range(len(frame)):
        with pytest.raises(ChunkCorruptError):
            decode(frame[:position], plain)
        for bit in range(8):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            try:
                assert decode(bytes(flipped), plain) == plain
            except ChunkCorruptError:
                seen += 1
    # zstd's headers have a few bits that its decoder does not look at
    assert seen > 8 * len(frame) - 8


@pytest.mark.parametrize(
    "frame",
    [
        raw_frame(0, TEXT, raw=len(TEXT)) + b"x",
        raw_frame(0, TEXT, raw=len(TEXT) + 1),
        raw_frame(0, TEXT, raw=len(TEXT), said=len(TEXT) - 1),
        raw_frame(0, TEXT[:-1], raw=len(TEXT)),
        raw_frame(0, TEXT, raw=len(TEXT), flags=1),
        raw_frame(0, TEXT, raw=len(TEXT), flags=1, params=bytes(32)),
        raw_frame(0, TEXT, raw=len(TEXT), params=b"x"),
        raw_frame(2, TEXT, raw=len(TEXT)),
        raw_frame(255, TEXT, raw=len(TEXT)),
        raw_frame(1, TEXT, raw=len(TEXT)),
        raw_frame(1, compress(TEXT[:-1]), raw=len(TEXT)),
        raw_frame(1, compress(TEXT + b"x"), raw=len(TEXT)),
        raw_frame(1, compress(TEXT) + b"x", raw=len(TEXT)),
        raw_frame(1, compress(TEXT), raw=0xFFFFFFFF),
        raw_frame(1, compress(bytes(64 << 20)), raw=64 << 20),
        raw_frame(1, compress(TEXT), raw=len(TEXT), said=0xFFFFFFFF),
        raw_frame(1, compress(TEXT) + bytes(len(TEXT)), raw=len(TEXT)),
        b"",
        bytes(12),
    ],
    ids=range(19),
)
def test_a_frame_that_is_not_that_of_the_chunk_is_refused(frame: bytes) -> None:
    with pytest.raises(ChunkCorruptError, match=hash_bytes(TEXT).hex()):
        decode(frame, TEXT)


def test_bytes_of_another_chunk_are_not_handed_out() -> None:
    other = TEXT[:-1] + b"x"
    for plain in (other, NOISE[: len(TEXT)]):
        with pytest.raises(ChunkCorruptError, match="hash"):
            decode(encode_frame(plain), TEXT)
