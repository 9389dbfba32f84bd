"""Codec 2: hostile chunks come back, hostile frames are refused, and floats get smaller than zstd makes them."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.codec import blocks, coded_planes, frame
from ckptfs.codec.frame import base_digest, decode_frame, encode_frame, encode_frame_into
from ckptfs.codec.planes import Numbers, Prediction, predict
from ckptfs.codec.ways import is_repeated
from ckptfs.codec.zstd import compress, compress_plane
from ckptfs.errors import ChunkCorruptError, CorruptObjectError
from ckptfs.format.pack import MAX_FRAME_EXTRA_BYTES
from ckptfs.hashing import hash_bytes

MIB = 1 << 20
GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.bytes(MIB)
WEIGHTS = (GENERATOR.standard_normal(MIB // 4) * 0.02).astype("<f4")
LATER = (WEIGHTS + GENERATOR.standard_normal(len(WEIGHTS)) * 1e-5).astype("<f4")
TEXT = b"".join(b"step %d loss %.4f\n" % (step, random.Random(step).random()) for step in range(20_000))


def as_bf16(floats: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> bytes:
    return (floats.view("<u4") >> 16).astype("<u2").tobytes()


def specials(kind: str) -> bytes:
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1.0], "<f4").astype(kind)
    with_payload = np.array([0x7F800001, 0xFFC12345, 0x00000001, 0x80000001], "<u4").tobytes()
    return (values.tobytes() + with_payload) * 1500


CHUNKS = {
    "fp32": WEIGHTS.tobytes(),
    "fp32 later": LATER.tobytes(),
    "bf16": as_bf16(WEIGHTS),
    "fp16": WEIGHTS.astype("<f2").tobytes(),
    "fp64": WEIGHTS[:50_000].astype("<f8").tobytes(),
    "true fp64": GENERATOR.standard_normal(50_000).tobytes(),
    "fp32 off by 1": b"x" + WEIGHTS.tobytes(),
    "fp32 off by 3": b"xyz" + WEIGHTS.tobytes()[:100_001],
    "fp64 off by 5": b"12345" + GENERATOR.standard_normal(50_000).tobytes(),
    "ids": np.arange(100_000, dtype="<i8").tobytes(),
    "tokens": GENERATOR.integers(0, 50_000, 100_000, dtype="<i8").tobytes(),
    "bf16 then fp32": as_bf16(WEIGHTS) + WEIGHTS.tobytes(),
    "text then fp32": TEXT + WEIGHTS.tobytes(),
    "zeros": bytes(MIB + 5),
    "ones": np.ones(100_000, "<f4").tobytes(),
    "half zeros": bytes(MIB // 2) + WEIGHTS.tobytes(),
    "sparse": np.where(GENERATOR.random(len(WEIGHTS)) < 0.05, WEIGHTS, 0).astype("<f4").tobytes(),
    "repeated floats": WEIGHTS[:5000].tobytes() * 40,
    "noise": NOISE,
    "compressed": compress(TEXT * 3, 19),
    "text": TEXT,
    "specials 32": specials("<f4"),
    "specials 64": specials("<f8"),
    "denormals": (GENERATOR.standard_normal(50_000) * 1e-40).astype("<f4").tobytes(),
    "huge": (GENERATOR.standard_normal(50_000) * 3e37).astype("<f4").tobytes(),
    "one byte": b"x",
    "4095 bytes": WEIGHTS.tobytes()[:4095],
    "4096 bytes": WEIGHTS.tobytes()[:4096],
    "4103 bytes": WEIGHTS.tobytes()[:4103],
    "a block and a byte": WEIGHTS.tobytes() + b"x",
    "a block and 4097 bytes": WEIGHTS.tobytes() + NOISE[:4097],
}


def decode(stored: bytes, plain: bytes, base: bytes | None = None) -> bytes:
    return decode_frame(stored, size_bytes=len(plain), digest=hash_bytes(plain), base=base)


def zstd_or_raw(plain: bytes) -> int:
    """What a frame takes without planes."""
    return 12 + min(len(compress(plain, 3)), len(plain))


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_comes_back_and_is_not_larger_than_zstd_makes_it(name: str) -> None:
    plain = CHUNKS[name]
    stored = encode_frame(plain)
    assert decode(stored, plain) == plain
    assert base_digest(stored) is None
    # 3 %: what saves less is stored raw
    assert len(stored) <= max(zstd_or_raw(plain) * 1.01, 12 + 64) or zstd_or_raw(plain) > 0.97 * len(plain)


@pytest.mark.parametrize("base_name", ["fp32", "text", "zeros", "specials 32", "one byte", "bf16"])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_comes_back_whatever_its_base(name: str, base_name: str) -> None:
    plain, base = CHUNKS[name], CHUNKS[base_name]
    stored = encode_frame(plain, base=(hash_bytes(base), base))
    assert decode(stored, plain, base) == plain
    assert len(stored) <= len(encode_frame(plain)) * 1.01 + 40
    if base_digest(stored) is None:
        assert decode(stored, plain) == plain
    else:
        assert base_digest(stored) == hash_bytes(base)
        with pytest.raises(ChunkCorruptError):
            decode(stored, plain)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=1, max_size=40),
    st.integers(1, 600),
    st.binary(max_size=9),
    st.one_of(st.none(), st.binary(max_size=5000)),
    st.booleans(),
)
def test_any_chunk_comes_back_with_and_without_a_base(
    piece: bytes, times: int, end: bytes, base: bytes | None, is_close: bool
) -> None:
    plain = piece * times + end
    if base is not None and is_close:
        base = plain[: len(plain) // 2] + base + plain[len(plain) // 2 + len(base) :]
    stored = encode_frame(plain, base=None if base is None else (hash_bytes(base), base))
    assert decode(stored, plain, base) == plain
    assert len(stored) <= len(plain) + 12


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=3, max_size=30),
    st.integers(0, 7),
    st.floats(0.5, 1.5, width=32),
)
def test_floats_of_every_kind_come_back_from_a_scaled_base(values: list[float], skip: int, ratio: float) -> None:
    floats = np.resize(np.array(values, "<f4"), 3000)
    with np.errstate(all="ignore"):
        plain = bytes(skip) + (floats * np.float32(ratio)).tobytes()
    base = bytes(skip) + floats.tobytes()
    assert decode(encode_frame(plain, base=(hash_bytes(base), base)), plain, base) == plain


def ratio_of(plain: bytes, base: bytes | None = None) -> float:
    return len(encode_frame(plain, base=None if base is None else (hash_bytes(base), base))) / len(plain)


def test_floats_take_their_entropy() -> None:
    assert ratio_of(CHUNKS["fp32"]) < 0.835
    assert ratio_of(CHUNKS["bf16"]) < 0.68
    assert ratio_of(CHUNKS["fp32 off by 1"]) < 0.835
    assert zstd_or_raw(CHUNKS["fp32"]) / MIB > 0.9


def test_floats_that_moved_little_take_what_moved() -> None:
    assert ratio_of(CHUNKS["fp32 later"], CHUNKS["fp32"]) < 0.55
    assert ratio_of(b"x" + CHUNKS["fp32 later"], b"y" + CHUNKS["fp32"]) < 0.55


def test_moments_that_decayed_take_next_to_nothing() -> None:
    with np.errstate(under="ignore"):
        decayed = WEIGHTS.copy()
        for _ in range(10):
            decayed *= np.float32(0.9)
    assert ratio_of(decayed.tobytes(), WEIGHTS.tobytes()) < 0.2
    with_nan = WEIGHTS.copy()
    with_nan[1234] = np.nan
    plain = (with_nan * np.float32(0.5)).tobytes()
    stored = encode_frame(plain, base=(bytes(32), with_nan.tobytes()))
    assert decode(stored, plain, with_nan.tobytes()) == plain


def test_what_did_not_change_takes_a_few_bytes() -> None:
    for name in ("fp32", "noise", "text"):
        assert len(encode_frame(CHUNKS[name], base=(bytes(32), CHUNKS[name]))) < 100
    plain = bytearray(WEIGHTS.tobytes() * 4)
    base = bytes(plain)
    plain[3 * MIB + 5] ^= 1
    assert len(encode_frame(plain, base=(bytes(32), base))) < 1000


def test_text_that_grew_and_shifted_takes_what_is_new() -> None:
    plain = TEXT[: len(TEXT) // 2] + b"a new line\n" * 3 + TEXT[len(TEXT) // 2 :]
    stored = encode_frame(plain, base=(hash_bytes(TEXT), TEXT))
    assert stored[0] == 3
    assert len(stored) < len(plain) * 0.03
    assert decode(stored, plain, TEXT) == plain


def test_content_that_moved_far_is_found_in_the_base() -> None:
    plain = GENERATOR.bytes(200_000) + NOISE
    stored = encode_frame(plain, base=(hash_bytes(NOISE), NOISE))
    assert stored[0] == 3
    assert len(stored) < 0.2 * len(plain)
    assert decode(stored, plain, NOISE) == plain


def test_a_base_is_used_where_it_saves_what_is_asked_of_it() -> None:
    plain, base = LATER.tobytes(), (hash_bytes(WEIGHTS.tobytes()), WEIGHTS.tobytes())
    gain = 1 - len(encode_frame(plain, base=base)) / len(encode_frame(plain))
    assert 0.1 < gain < 0.9
    assert base_digest(encode_frame(plain, base=base, min_gain=gain - 0.05)) == base[0]
    assert encode_frame(plain, base=base, min_gain=gain + 0.05) == encode_frame(plain)


def test_a_prefix_is_used_where_it_saves_what_is_asked_of_it() -> None:
    plain, base = TEXT[:-100], (hash_bytes(TEXT), TEXT)
    assert base_digest(encode_frame(plain, base=base, min_gain=0.5)) == base[0]
    other = b"".join(b"step %d loss %.4f\n" % (step, random.Random(-step - 9).random()) for step in range(20_000))
    assert base_digest(encode_frame(other, base=base, min_gain=0.9)) is None


def test_a_base_that_does_not_help_is_not_referred_to() -> None:
    assert base_digest(encode_frame(WEIGHTS.tobytes(), base=(hash_bytes(NOISE), NOISE))) is None


@pytest.fixture
def whole_chunks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was tried on all of a chunk, or more of it than a sample has."""
    tried: list[str] = []

    def noting(name: str, coder: Callable[..., bytes], data: bytes, *more: Any) -> bytes:
        if len(data) > 64 << 10:
            tried.append(name)
        return coder(data, *more)

    for name in ("compress", "compress_with_prefix"):
        monkeypatch.setattr(frame, name, partial(noting, name, getattr(frame, name)))
    return tried


def test_a_file_of_tensors_is_taken_for_floats_although_its_header_is_text(whole_chunks: list[str]) -> None:
    header = b"".join(b'"layer.%d.weight":{"dtype":"F32","shape":[384,384]},' % layer for layer in range(400))
    weights = (GENERATOR.standard_normal(MIB) * 0.02).astype("<f4")
    later = (weights + GENERATOR.standard_normal(MIB) * 1e-5).astype("<f4")
    base = header + weights.tobytes()
    encode_frame((header + later.tobytes())[: 4 * MIB], base=(hash_bytes(base), base))
    assert not whole_chunks


@pytest.mark.parametrize("seed", range(5))
def test_rows_among_zeros_are_not_looked_for_in_a_base_that_has_others(seed: int, whole_chunks: list[str]) -> None:
    generator = np.random.default_rng(seed)

    def moments() -> bytes:
        is_kept = generator.random((2700, 1)) < 0.05
        return np.where(is_kept, generator.standard_normal((2700, 384)) ** 2 * 1e-8, 0).astype("<f4").tobytes()

    base = moments()
    encode_frame(moments(), base=(hash_bytes(base), base))
    assert "compress_with_prefix" not in whole_chunks


def test_what_moved_is_found_in_the_base_also_where_most_of_a_chunk_is_zeros() -> None:
    pages = GENERATOR.bytes(MIB)
    base = bytes(MIB // 2) + pages + bytes(MIB)
    plain = bytes(MIB) + pages + bytes(MIB // 2)
    assert len(encode_frame(plain, base=(hash_bytes(base), base))) < len(pages) // 100


def test_the_wrong_base_gives_no_bytes() -> None:
    plain = LATER.tobytes()
    stored = encode_frame(plain, base=(hash_bytes(WEIGHTS.tobytes()), WEIGHTS.tobytes()))
    for base in (NOISE, WEIGHTS.tobytes()[:-1], b"", bytes(MIB)):
        with pytest.raises(ChunkCorruptError):
            decode(stored, plain, base)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_gives_the_same_frame(kind: type) -> None:
    plain, base = LATER.tobytes(), WEIGHTS.tobytes()
    stored = encode_frame(kind(plain), base=(bytes(32), kind(base)))
    assert stored == encode_frame(plain, base=(bytes(32), base))
    assert decode_frame(kind(stored), size_bytes=MIB, digest=hash_bytes(plain), base=kind(base)) == plain


def test_a_frame_that_decodes_to_something_else_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded_planes, "compress_plane", lambda data, is_sparse: compress(bytes(len(data))))
    with pytest.raises(CorruptObjectError):
        encode_frame(WEIGHTS.tobytes())


@pytest.mark.parametrize("place", [0, 1, MIB // 8, MIB // 4 - 1])
def test_one_wrong_byte_of_a_coded_plane_is_not_handed_out(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaging(data: memoryview, *, is_sparse: bool) -> bytes:
        plane = bytearray(data)
        plane[place] ^= 1
        return compress_plane(plane, is_sparse=is_sparse)

    monkeypatch.setattr(coded_planes, "compress_plane", damaging)
    with pytest.raises(CorruptObjectError):
        encode_frame(WEIGHTS.tobytes())
    with pytest.raises(CorruptObjectError):
        encode_frame(LATER.tobytes(), base=(bytes(32), WEIGHTS.tobytes()))


def test_wrong_arithmetic_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = (bytes(32), WEIGHTS.tobytes())

    def wrong(numbers: Numbers, prediction: Prediction, before: Numbers | None, ratio: float, out: Numbers) -> Numbers:
        residuals = predict(numbers, prediction, before, ratio, out)
        return np.add(residuals, residuals.dtype.type(2), out=out) if prediction is Prediction.BASE else residuals

    with monkeypatch.context() as patch:
        patch.setattr(coded_planes, "predict", wrong)
        with pytest.raises(CorruptObjectError):
            encode_frame(LATER.tobytes(), base=base)
    assert decode(encode_frame(LATER.tobytes(), base=base), LATER.tobytes(), base[1]) == LATER.tobytes()


def test_a_block_that_zstd_got_wrong_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = WEIGHTS.tobytes() + (TEXT * 3)[:MIB]
    assert encode_frame(plain)[0] == 2
    monkeypatch.setattr(blocks, "compress", lambda data, level: compress(bytes(len(data)), level))
    with pytest.raises(CorruptObjectError):
        encode_frame(plain)


@pytest.mark.parametrize("name", ["fp32", "text", "noise", "zeros", "fp32 off by 3", "one byte", "compressed"])
@pytest.mark.parametrize("base_name", [None, "fp32 later", "text"])
def test_a_frame_is_the_same_wherever_it_is_written(name: str, base_name: str | None) -> None:
    plain = CHUNKS[name]
    base = None if base_name is None else (hash_bytes(CHUNKS[base_name]), CHUNKS[base_name])
    room = memoryview(bytearray(b"?" * (len(plain) + MAX_FRAME_EXTRA_BYTES)))
    size = encode_frame_into(room, plain, base=base)
    assert bytes(room[:size]) == encode_frame(plain, base=base)
    assert not bytes(room[size:]).strip(b"?")


SEGMENTS = {
    "weights": WEIGHTS.tobytes(),
    "later": LATER.tobytes(),
    "bf16": as_bf16(WEIGHTS),
    "specials": specials("<f4"),
    "denormals": (GENERATOR.standard_normal(60_000) * 1e-40).astype("<f4").tobytes(),
    "noise": NOISE,
    "zeros": bytes(MIB),
    "text": TEXT,
    "compressed": compress(TEXT * 3, 19),
    "ids": np.arange(50_000, dtype="<i8").tobytes(),
}
segments = st.lists(
    st.tuples(st.sampled_from(sorted(SEGMENTS)), st.integers(0, 9), st.integers(1, 400_000)), min_size=1, max_size=8
).map(lambda parts: b"".join(SEGMENTS[name][skip : skip + size] for name, skip, size in parts))


@settings(max_examples=40, deadline=None)
@given(segments, st.one_of(st.none(), segments), st.booleans(), st.integers(0, 9))
def test_any_mixture_comes_back_at_any_alignment(plain: bytes, base: bytes | None, is_like: bool, skip: int) -> None:
    if base is not None and is_like:
        base = plain[skip:] + base[:1000]
    stored = encode_frame(memoryview(b"?" * skip + plain)[skip:], base=None if base is None else (bytes(32), base))
    assert decode(stored, plain, base) == plain
    assert len(stored) <= len(plain) + 12


def test_planes_are_found_where_zeros_and_numbers_are_mixed() -> None:
    rows = WEIGHTS.reshape(-1, 1024).copy()
    rows[np.random.default_rng(1).random(len(rows)) < 0.6] = 0
    # 60 % zeros, and the others as they are alone
    assert ratio_of(rows.tobytes()) < 0.4 * 0.86
    assert zstd_or_raw(rows.tobytes()) > 0.4 * 0.9 * MIB


def test_a_tensor_that_is_twice_in_a_chunk_is_stored_once() -> None:
    tensor = WEIGHTS.tobytes()
    for plain in (tensor * 2, tensor + NOISE[:1000] + tensor):
        assert is_repeated(np.frombuffer(plain, np.uint8))
        assert ratio_of(plain) < 0.5
    for plain in (WEIGHTS.tobytes() + LATER.tobytes(), NOISE, bytes(MIB), b"x" * 9, b""):
        assert not is_repeated(np.frombuffer(plain, np.uint8))


SMALL = {
    "fresh": (WEIGHTS[:1100].tobytes() + b"end", None),
    "off by 3": (b"xyz" + WEIGHTS[:1100].tobytes(), None),
    "base": (LATER[:1100].tobytes() + b"end", WEIGHTS[:1100].tobytes()),
    "ratio": ((WEIGHTS[:1100] * np.float32(0.9)).tobytes(), WEIGHTS[:1100].tobytes()),
    "constant": (np.arange(1100, dtype="<i8").tobytes(), None),
    "prefix": (TEXT[:2000] + b"x" + TEXT[2000:6000], TEXT[:6000]),
    "same": (NOISE[:5000], NOISE[:5000]),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_flipped_byte_and_every_truncation_is_seen_or_harmless(name: str) -> None:
    plain, base = SMALL[name]
    stored = encode_frame(plain, base=None if base is None else (hash_bytes(base), base))
    assert stored[0] in (2, 3)
    generator = random.Random(0)
    for position in [*range(min(len(stored), 120)), *generator.sample(range(len(stored)), min(len(stored), 300))]:
        with pytest.raises(ChunkCorruptError):
            decode(stored[:position], plain, base)
        for value in {generator.randrange(256), stored[position] ^ 1, stored[position] ^ 0x80, 0, 255}:
            damaged = bytearray(stored)
            damaged[position] = value
            try:
                assert decode(bytes(damaged), plain, base) == plain
            except ChunkCorruptError:
                continue


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SMALL)), st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=8)), max_size=4))
def test_a_frame_with_any_garbage_in_its_headers_is_refused_or_harmless(
    name: str, garbage: list[tuple[int, bytes]]
) -> None:
    plain, base = SMALL[name]
    damaged = bytearray(encode_frame(plain, base=None if base is None else (hash_bytes(base), base)))
    for position, value in garbage:
        damaged[12 + position : 12 + position + len(value)] = value
    damaged[8:12] = struct.pack("<I", len(damaged) - 12 - (32 if damaged[1] else 0))
    try:
        assert decode(bytes(damaged), plain, base) == plain
    except ChunkCorruptError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(1, 5000), st.booleans(), st.sampled_from([2, 3]))
def test_any_payload_at_all_is_refused_or_bytes_of_the_right_size(
    payload: bytes, size: int, has_base: bool, codec: int
) -> None:
    params = bytes(32) if has_base else b""
    stored = struct.pack("<BBHII", codec, int(has_base), len(params), size, len(payload)) + params + payload
    with pytest.raises(ChunkCorruptError):
        decode_frame(stored, size_bytes=size, digest=bytes(32), base=WEIGHTS.tobytes() if has_base else None)


def planes(
    *rows: tuple[int, int, int, bytes], prediction: int = 0, stride: int = 4, head: int = 0, ratio: int = 0
) -> bytes:
    """A block of planes laid out by hand as docs/FORMAT.md section 5.2 says; rows: width, coder, length, data."""
    header = struct.pack("<BBBBI", 3, prediction, stride, head, ratio)
    table = b"".join(struct.pack("<BBHI", width, coder, 0, said) for width, coder, said, _ in rows)
    return header + table + b"".join(data for *_, data in rows)


def frame_of(payload: bytes, size: int, *, digest: bytes = b"") -> bytes:
    return struct.pack("<BBHII", 2, int(bool(digest)), len(digest), size, len(payload)) + digest + payload


def test_the_layout_is_that_of_the_document() -> None:
    plain = np.array([0x01020304, 0x01020506], "<u4").tobytes() * 50 + b"!"
    rows = (
        (1, 1, 1, b"\x01"),
        (1, 2, len(compress(b"\2" * 100)), compress(b"\2" * 100)),
        (2, 0, 200, np.array([0x0304, 0x0506] * 50, "<u2").tobytes()),
    )
    assert decode(frame_of(planes(*rows) + b"!", len(plain)), plain) == plain
    base = np.array([0x01020300], "<u4").tobytes() * 100 + b"?"
    constant = [(1, 1, 1, value) for value in (b"\0", b"\0", b"\0", b"\x08")]
    expected = np.array([0x01020304], "<u4").tobytes() * 100 + b"!"
    stored = frame_of(planes(*constant, prediction=2) + b"!", 401, digest=hash_bytes(base))
    assert decode(stored, expected, base) == expected
    same = frame_of(struct.pack("<BBBBI", 2, 0, 0, 0, 0), 401, digest=hash_bytes(base))
    assert decode(same, base, base) == base


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        planes((1, 1, 1, b"x")),
        planes((4, 0, 400, bytes(400))),
        planes((1, 1, 1, b"x"), (2, 1, 2, b"xx"), (1, 1, 1, b"x")),
        planes((1, 3, 1, b"x"), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes((0, 1, 1, b"x"), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes((1, 1, 2, b"xx"), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes((1, 1, 0, b""), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes((1, 0, 99, bytes(99)), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes((1, 2, 20, compress(bytes(101))), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes((1, 0, 0xFFFFFFFF, b""), (1, 1, 1, b"x"), (2, 1, 2, b"xx")),
        planes(*[(1, 1, 1, b"x")] * 4) + b"more",
        planes(*[(1, 1, 1, b"x")] * 3, stride=3),
        planes(*[(1, 1, 1, b"x")] * 4, stride=0),
        planes(*[(1, 1, 1, b"x")] * 4, head=4) + bytes(4),
        planes(*[(1, 1, 1, b"x")] * 4, prediction=4),
        planes(*[(1, 1, 1, b"x")] * 4, prediction=2),
        planes(*[(1, 1, 1, b"x")] * 4, ratio=1),
        struct.pack("<BBBBI", 0, 0, 0, 0, 1) + bytes(400),
        struct.pack("<BBBBI", 0, 0, 0, 1, 0) + bytes(400),
        struct.pack("<BBBBI", 1, 0, 0, 0, 400) + bytes(400),
        struct.pack("<BBBBI", 2, 0, 0, 0, 0),
        struct.pack("<BBBBI", 4, 0, 0, 0, 0) + bytes(400),
    ],
    ids=range(23),
)
def test_blocks_that_are_not_laid_out_as_documented_are_refused(payload: bytes) -> None:
    with pytest.raises(ChunkCorruptError):
        decode(frame_of(payload, 400), bytes(400))


@pytest.mark.parametrize("ratio", [0x7F800000, 0x7FC00000, 0xFF800000])
def test_a_ratio_that_is_no_number_is_refused(ratio: int) -> None:
    payload = planes(*[(1, 1, 1, b"\0")] * 4, prediction=3, ratio=ratio)
    with pytest.raises(ChunkCorruptError):
        decode(frame_of(payload, 400, digest=bytes(32)), bytes(400), bytes(400))


def test_a_ratio_of_hostile_floats_raises_no_warning() -> None:
    base = specials("<f4")[:400]
    payload = planes(*[(1, 1, 1, b"\0")] * 4, prediction=3, ratio=0x7F7FFFFF)
    with pytest.raises(ChunkCorruptError, match="hash"):
        decode(frame_of(payload, 400, digest=bytes(32)), bytes(400), base)


def test_planes_that_say_more_than_they_may_hold_take_no_memory() -> None:
    bomb = compress(bytes(256 << 20))
    payload = planes((1, 2, len(bomb), bomb), (1, 1, 1, b"x"), (2, 1, 2, b"xx"))
    tracemalloc.start()
    try:
        with pytest.raises(ChunkCorruptError):
            decode(frame_of(payload, MIB), bytes(MIB))
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_a_chunk_above_what_is_kept_in_buffers_comes_back() -> None:
    plain = b"".join((LATER * np.float32(scale)).tobytes() for scale in (1, 0.3, 0.7, 1.1, 2.3, 3.1, 5.3, 7.7, 9.1))
    stored = encode_frame(plain)
    assert stored[0] == frame._BLOCKS
    assert decode(stored, plain) == plain


@pytest.mark.parametrize("size", [1, 9, 40, 50])
def test_a_tiny_chunk_that_did_not_change_is_shorter_than_the_hash_of_its_base(size: int) -> None:
    stored = encode_frame(NOISE[:size], base=(bytes(32), NOISE[:size]))
    assert len(stored) <= size + 12
