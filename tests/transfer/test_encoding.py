"""Encoders, as processes and not: frames that decode to the chunk, whatever becomes of the processes."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ckptfs.cache.anchors import AnchorPlace
from ckptfs.codec.frame import decode_frame, encode_frame
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.encoding import Encoded, EncoderPool, Slot, SlotPool, Work, _fork_encoder
from tests.mounting import wait_until

CHUNK = 1 << 20


def weights(seed: int = 0) -> bytes:
    return np.random.default_rng(seed).normal(size=CHUNK // 4).astype(np.float32).tobytes()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def encode(pool: EncoderPool, plain: bytes, base: AnchorPlace | None = None) -> tuple[bytes, Encoded]:
    slot = pool.slots.take()
    try:
        slot.plain[: len(plain)] = plain
        encoded = pool.encode(slot, Work(len(plain), base, 0.02))
        return bytes(slot.frame[: encoded.frame_bytes]), encoded
    finally:
        pool.slots.give(slot)


@pytest.fixture(params=[True, False], ids=["forked", "here"])
def pool(request: pytest.FixtureRequest) -> Iterator[EncoderPool]:
    pool = EncoderPool(2, chunk_bytes=CHUNK, forked=request.param)
    yield pool
    pool.close()


def kept(directory: Path, plain: bytes) -> AnchorPlace:
    """A base on disk, somewhere in a file."""
    frame = encode_frame(plain)
    path = directory / "kept"
    path.write_bytes(b"before" + frame)
    return AnchorPlace(path, 6, len(frame), len(plain), hash_bytes(plain))


def test_frames_decode_to_the_chunks_that_many_threads_gave(pool: EncoderPool) -> None:
    plains = [os.urandom(CHUNK), weights(1), bytes(CHUNK), weights(2)[:12345], b"x"] * 4
    with ThreadPoolExecutor(pool.count) as threads:
        frames = list(threads.map(lambda plain: encode(pool, plain)[0], plains))
    for plain, frame in zip(plains, frames, strict=True):
        assert decode_frame(frame, size_bytes=len(plain), digest=hash_bytes(plain)) == plain


def test_a_small_base_is_read_once_for_all_that_are_encoded_against_it_and_large_ones_take_no_memory(
    tmp_path: Path,
) -> None:
    pool = EncoderPool(1, chunk_bytes=CHUNK)
    for size, is_kept in ((256 << 10, True), (CHUNK, False)):
        base = weights(size)[:size]
        place = kept(tmp_path, base)
        assert encode(pool, (np.frombuffer(base, np.float32) * np.float32(1.0001)).tobytes(), place)[1].uses_base
        place.path.unlink()
        again = (np.frombuffer(base, np.float32) * np.float32(1.0002)).tobytes()
        frame, encoded = encode(pool, again, place)
        assert encoded.uses_base == is_kept
        digest = hash_bytes(again)
        assert decode_frame(frame, size_bytes=size, digest=digest, base=base if is_kept else None) == again
    assert isinstance(encoded.base_error, str)


def test_a_base_is_read_where_it_is_kept_and_does_without_when_it_is_damaged(pool: EncoderPool, tmp_path: Path) -> None:
    base = weights()
    plain = (np.frombuffer(base, np.float32) * np.float32(1.0001)).tobytes()
    place = kept(tmp_path, base)
    frame, encoded = encode(pool, plain, place)
    assert encoded.uses_base
    assert encoded.base_error is None
    assert decode_frame(frame, size_bytes=CHUNK, digest=hash_bytes(plain), base=base) == plain

    damaged = bytearray(place.path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    place.path.write_bytes(damaged)
    for _ in range(2):
        frame, encoded = encode(pool, plain, place)
        assert not encoded.uses_base
        assert encoded.base_error is not None
        assert decode_frame(frame, size_bytes=CHUNK, digest=hash_bytes(plain)) == plain
        place.path.unlink(missing_ok=True)


def test_an_encoder_that_dies_costs_nothing_but_time(caplog: pytest.LogCaptureFixture) -> None:
    before = children(os.getpid())
    pool = EncoderPool(2, chunk_bytes=CHUNK, forked=True)
    mine = [pid for pid in children(os.getpid()) if pid not in before]
    assert len(mine) == 2
    for pid in mine:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    plain = weights()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert decode_frame(encode(pool, plain)[0], size_bytes=CHUNK, digest=hash_bytes(plain)) == plain
    assert [record.message for record in caplog.records].count(
        "an encoder has died; encoding goes on without it"
    ) == len(mine)
    pool.close()


def test_encoders_end_with_the_process_that_forked_them() -> None:
    program = (
        "import time; from ckptfs.transfer.encoding import EncoderPool\n"
        f"pool = EncoderPool(3, chunk_bytes={CHUNK}, forked=True); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    encoders = children(process.pid)
    assert len(encoders) == 3
    process.kill()
    # nobody else has its output open
    assert process.stdout.read() == b""
    process.stdout.close()
    process.wait(10)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in encoders), 10, "the encoders have ended")


def test_whoever_wants_one_slot_too_many_waits_for_it() -> None:
    slots = EncoderPool(1, chunk_bytes=CHUNK).slots
    taken = [slots.take() for _ in range(slots.count)]
    assert len({slot.number for slot in taken}) == slots.count
    with ThreadPoolExecutor(1) as threads:
        one_more = threads.submit(slots.take)
        time.sleep(0.1)
        assert not one_more.done()
        slots.give(taken[2])
        given: Slot = one_more.result(5)
    assert given.number == taken[2].number


@pytest.mark.parametrize("reads", [True, False])
def test_an_encoder_whose_process_is_killed_ends_without_a_word(reads: bool, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = _fork_encoder(SlotPool(1, CHUNK), ())
    encoder.send((0, Work(CHUNK)))
    assert encoder.poll(60), "it answers"
    if reads:
        encoder.recv()
    # what was not read makes it a reset for who waits at the other end
    encoder.close()
    assert os.wait()[1] == 0
    assert capfd.readouterr().err == ""
