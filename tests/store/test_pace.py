"""Uploads that are kept below so many bytes a second: over short times too, together, and with the right bytes."""

import os
import threading
import time
from pathlib import Path

import pytest

from ckptfs.store.open import open_store
from ckptfs.store.pace import Pace, PacedBody

KIB = 1 << 10


class Clock:
    """A clock that goes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


def test_pieces_are_the_body_and_come_no_faster_than_said() -> None:
    clock = Clock()
    body = os.urandom(300 * KIB)
    pieces = []
    for piece in Pace(100 * KIB, clock, clock.sleep).pieces(body):
        # what went before has had its time
        assert clock.now_s - 100.0 == pytest.approx(sum(map(len, pieces)) / (100 * KIB))
        pieces.append(bytes(piece))
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 64 * KIB


def test_time_in_which_nothing_was_sent_is_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(1000, clock, clock.sleep)
    clock.sleep(50)
    before_s = clock.now_s
    for _ in range(4):
        pace.wait(1000)
    assert clock.now_s - before_s == pytest.approx(3.0)


def test_an_http_client_reads_all_of_a_paced_body_and_again() -> None:
    clock = Clock()
    data = os.urandom(100 * KIB)
    body = PacedBody(data, Pace(100 * KIB, clock, clock.sleep))
    for _ in range(2):
        body.seek(0)
        assert b"".join(iter(lambda: body.read(16 * KIB), b"")) == data
    assert clock.now_s - 100.0 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_store_takes_as_long_as_the_limit_says_however_many_send(tmp_path: Path, threads: int) -> None:
    store = open_store((tmp_path / "store").as_uri(), create=True, upload_limit_bps=1 << 20)
    bodies = {f"p/{number}": os.urandom((512 << 10) // threads) for number in range(threads)}
    senders = [threading.Thread(target=store.put, args=item) for item in bodies.items()]
    started_s = time.monotonic()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    # the last piece goes when those before it have had their time
    assert time.monotonic() - started_s >= 0.5 - 0.13
    assert {key: store.get(key) for key in bodies} == bodies
    store.close()


@pytest.mark.s3
def test_s3_gets_what_is_sent_slowly(bucket: str) -> None:
    store = open_store(f"{bucket}/paced", upload_limit_bps=2 << 20)
    body = os.urandom(1 << 20)
    started_s = time.monotonic()
    store.put("p/slow", body)
    assert time.monotonic() - started_s >= 0.5 - 0.1
    assert store.get("p/slow") == body
    store.close()
