"""zstd frames: round trips, and nothing that a hostile frame says makes memory or time run away."""

import struct
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.codec import zstd
from ckptfs.codec.zstd import compress, compress_plane, decompress
from ckptfs.errors import CorruptObjectError

MAGIC = bytes.fromhex("28b52ffd")


def run_of(byte: bytes, size: int, *, last: bool = True) -> bytes:
    """A block of one byte repeated: 4 bytes that make up to 128 KiB."""
    return struct.pack("<I", size << 3 | 1 << 1 | int(last))[:3] + byte


def frame_of(content_size: int, *blocks: bytes) -> bytes:
    return MAGIC + b"\xa0" + struct.pack("<I", content_size) + b"".join(blocks)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([1, 3, 19]))
def test_any_bytes_come_back(data: bytes, level: int) -> None:
    assert decompress(compress(data, level), max_bytes=len(data)) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_taken(kind: type) -> None:
    data = b"some bytes " * 50
    assert decompress(kind(compress(kind(data))), max_bytes=len(data)) == data


def test_content_above_the_bound_is_refused() -> None:
    frame = compress(bytes(1000))
    assert decompress(frame, max_bytes=1000) == bytes(1000)
    with pytest.raises(CorruptObjectError):
        decompress(frame, max_bytes=999)


def test_every_truncation_and_every_flipped_bit_gives_an_error_or_bytes_of_bounded_size() -> None:
    data = b"step 100 loss 0.125\n" * 20
    frame = compress(data)
    for size in range(len(frame)):
        with pytest.raises(CorruptObjectError):
            decompress(frame[:size], max_bytes=len(data))
    for position in range(len(frame)):
        for bit in range(8):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            try:
                assert len(decompress(bytes(flipped), max_bytes=len(data))) <= len(data)
            except CorruptObjectError:
                continue


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        MAGIC,
        b"no zstd frame at all",
        compress(b"") + b"x",
        compress(b"content") + b"x",
        compress(b"content") * 2,
        zstandard.ZstdCompressor(write_content_size=False).compress(b"content"),
        struct.pack("<II", 0x184D2A50, 4) + b"skip",
        struct.pack("<II", 0x184D2A50, 4) + b"skip" + compress(b"content"),
        MAGIC + bytes((0x21, 5, 10)) + run_of(b"a", 10),  # dictionary 5, 10 bytes
        frame_of(5, run_of(b"a", 10)),
        frame_of(50, run_of(b"a", 10)),
        frame_of(10, run_of(b"a", 10, last=False)),
        frame_of(0, run_of(b"a", 10)),
    ],
    ids=range(14),
)
def test_what_is_not_one_whole_frame_that_says_its_size_is_refused(frame: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        decompress(frame, max_bytes=1 << 20)


@pytest.mark.parametrize("claimed", [1 << 20, 1 << 30, (1 << 32) - 1])
def test_a_short_frame_that_claims_much_takes_no_memory(claimed: int) -> None:
    frame = frame_of(claimed, run_of(b"a", 10))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError):
            decompress(frame, max_bytes=1 << 62)
        # the library's own object for the result, had it been asked for, would show here
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_by_the_bound_of_its_reader() -> None:
    blocks = [run_of(b"a", 128 << 10, last=index == 799) for index in range(800)]
    bomb = frame_of(100 << 20, *blocks)
    assert len(bomb) < 4000
    with pytest.raises(CorruptObjectError):
        decompress(bomb, max_bytes=64 << 20)


def test_threads_do_not_disturb_each_other() -> None:
    data = [bytes([seed]) * 50_000 + bytes(range(256)) * 50 for seed in range(8)]
    start = threading.Barrier(8)

    def work(plain: bytes) -> bool:
        start.wait(timeout=30)
        return all(decompress(compress(plain), max_bytes=len(plain)) == plain for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, data))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.binary(min_size=1, max_size=3000), st.binary(min_size=1, max_size=5).map(lambda piece: piece * 999))
)
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("has_native", [False, True])
def test_any_plane_comes_back(has_native: bool, is_sparse: bool, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not has_native:
            patch.setattr(zstd, "_native", None)
        patch.setattr(zstd, "_codecs", zstd._Codecs())
        frame = compress_plane(data, is_sparse=is_sparse)
    assert decompress(frame, max_bytes=len(data)) == data


def test_a_plane_takes_its_entropy_and_runs_take_nothing() -> None:
    generator = np.random.default_rng(0)
    exponents = (np.abs(generator.standard_normal(1 << 18)).view("<u8") >> 52 & 0xFF).astype(np.uint8)
    counts = np.bincount(exponents)
    shares = counts[counts > 0] / len(exponents)
    entropy = -(shares * np.log2(shares)).sum() / 8
    assert zstd._native is not None, "cffi, or the binding of zstandard that it makes, is missing"
    assert len(compress_plane(exponents.data)) < (entropy + 0.02) * len(exponents) < len(compress(exponents.data, 1))
    half = exponents.copy()
    half[: len(half) // 2] = 7
    assert len(compress_plane(half.data)) < (entropy / 2 + 0.02) * len(half)
    rare = np.where(generator.random(1 << 18) < 0.001, exponents, 0).astype(np.uint8)
    assert len(compress_plane(rare.data, is_sparse=True)) < 0.01 * len(rare)


def test_planes_of_several_threads_come_back() -> None:
    planes = [np.random.default_rng(seed).integers(0, 20, 300_000).astype(np.uint8).tobytes() for seed in range(6)]

    def work(plane: bytes) -> bool:
        return all(decompress(compress_plane(plane), max_bytes=len(plane)) == plane for _ in range(10))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, planes))
