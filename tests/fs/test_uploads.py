"""What the mount knows of its upload process, also when that dies before it could say what it did."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import PendingVersion
from ckptfs.capture.guards import Guards, Slot
from ckptfs.errors import NotDurableError
from ckptfs.fs.uploads import Uploads
from tests.cli.scene import capture
from tests.mounting import wait_until


@pytest.fixture
def cache(tmp_path: Path) -> CacheDirectory:
    cache = CacheDirectory(tmp_path / "cache")
    cache.prepare()
    return cache


@pytest.fixture
def start(cache: CacheDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Uploads]]:
    """Makes uploads whose process is a shell script, which has the cache directory as $4; version 1 is pending."""
    made: list[Uploads] = []

    def make(script: str) -> Uploads:
        program = tmp_path / "upload-process"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", os.fspath(program))
        durable: list[int] = []
        uploads = Uploads(cache.root, Guards(), None, durable.append)
        pending = capture(cache.pending, 1, {"a.bin": b"data"}, before={}, note=None)
        uploads.captured(pending, Slot(pending.directory), 4)
        threading.Thread(target=uploads.run, daemon=True).start()
        made.append(uploads)
        return uploads

    yield make
    for uploads in made:
        uploads.stop()


def test_a_version_is_durable_when_the_process_died_between_committing_it_and_saying_so(
    start: Callable[[str], Uploads],
) -> None:
    # it leaves pending/ only when its commit record exists
    uploads = start('rm -r "$4"/pending/*; kill -9 $$')
    uploads.wait_durable(20)
    newest = uploads.newest()
    assert newest is not None
    assert (newest.version, newest.state) == (1, "durable")
    assert uploads.pending_bytes == 0


@pytest.mark.expects_errors
def test_a_version_has_failed_when_the_process_died_between_putting_it_aside_and_saying_so(
    start: Callable[[str], Uploads],
) -> None:
    uploads = start('mv "$4"/pending/* "$4"/aside/; kill -9 $$')
    with pytest.raises(NotDurableError, match="version 1 could not be stored"):
        uploads.wait_durable(20)
    assert uploads.failed is not None


def test_a_version_that_is_still_pending_is_neither_when_the_process_dies(start: Callable[[str], Uploads]) -> None:
    uploads = start("kill -9 $$")
    with pytest.raises(NotDurableError, match="not durable after 1 s"):
        uploads.wait_durable(1)
    assert uploads.failed is None
    assert [state.state for state in uploads.waiting()] == ["captured"]


def test_what_takes_long_is_waited_for_while_more_of_it_comes_into_the_store(
    start: Callable[[str], Uploads], monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = start("exec sleep 60")
    now_s, ended = [1000.0], threading.Event()

    def wait() -> None:
        with pytest.raises(NotDurableError, match="not durable after 60 s"):
            uploads.wait_durable(60.0)
        ended.set()

    monkeypatch.setattr("ckptfs.fs.uploads.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    waits = threading.Thread(target=wait)
    waits.start()
    wait_until(lambda: uploads._waiters == 1, 20, "somebody waits")
    for done_bytes in range(1, 9):
        now_s[0] += 50
        uploads._handle({"event": "progress", "version": 1, "bytes_done": done_bytes})
        assert not ended.wait(0.05)
    now_s[0] += 50
    # begun anew: it was there already
    uploads._handle({"event": "progress", "version": 1, "bytes_done": 8})
    now_s[0] += 11
    waits.join(20)
    assert ended.is_set()


def test_what_is_left_by_the_end_is_said_to_be_so_because_the_time_was_over_or_somebody_was_impatient(
    start: Callable[[str], Uploads],
) -> None:
    uploads = start("exec sleep 60")
    impatient = threading.Event()
    assert uploads.drain(0.5, impatient) == "the drain-timeout, 0.5 s, is over"
    impatient.set()
    assert uploads.drain(60.0, impatient) == "told after 0 s to wait no longer"


def test_a_version_captured_while_the_process_dies_is_not_taken_for_a_durable_one(
    start: Callable[[str], Uploads], cache: CacheDirectory
) -> None:
    uploads = start("exit 1")
    pending: PendingVersion
    for version in range(2, 30):
        pending = capture(cache.pending, version, {"a.bin": b"data"}, before={}, note=None)
        uploads.captured(pending, Slot(pending.directory), 4)
    with pytest.raises(NotDurableError):
        uploads.wait_durable(1)
    assert len(uploads.waiting()) == 29


def test_it_is_started_again_also_when_it_died_before_it_read_a_wake_up(
    start: Callable[[str], Uploads], tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    sleeps, works = f"echo >> {lives}; exec sleep 20", f'echo >> {lives}; rm -r "$4"/pending/*'
    uploads = start(f"exec <&-; if [ -e {tmp_path}/woken ]; then {works}; else {sleeps}; fi")
    # it may live before its starter knows it
    wait_until(lambda: lives.exists() and uploads._process.running is not None, 20, "the process has closed its input")
    uploads.wake()
    (tmp_path / "woken").touch()
    process = uploads._process.running
    assert process is not None
    process.kill()
    uploads.wait_durable(20)
    assert len(lives.read_text()) == 2


def test_it_is_started_as_soon_as_there_are_descriptors_again(
    start: Callable[[str], Uploads], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    class OutOfDescriptors(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            tried.append(len(tried))
            if len(tried) < 4:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            super().__init__(*arguments, **more)

    monkeypatch.setattr(subprocess, "Popen", OutOfDescriptors)
    uploads = start('read line; rm -r "$4"/pending/*')
    uploads.wait_durable(20)
    assert len(tried) >= 4


def test_what_is_captured_while_the_process_begins_is_not_forgotten(
    start: Callable[[str], Uploads], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, captured = tmp_path / "looked", threading.Event()

    class SlowToReturn(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            captured.wait(20)

    monkeypatch.setattr(subprocess, "Popen", SlowToReturn)
    uploads = start(f'touch {looked}; read line; rm -r "$4"/pending/*')
    wait_until(looked.exists, 20, "the process has looked")
    uploads.wake()
    captured.set()
    uploads.wait_durable(20)


def test_the_process_is_told_whether_somebody_waits_for_what_is_captured(
    start: Callable[[str], Uploads], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    uploads = start(f'while read line; do echo "$line" >> {told}; done')
    wait_until(told.exists, 20, "the process has begun")
    uploads.wake()
    waits = threading.Thread(target=uploads.wait_durable, args=(60,))
    wait_until(lambda: told.read_text() == "\n\n", 20, "a wake-up has come")
    waits.start()
    wait_until(lambda: told.read_text() == "\n\n!\n", 20, "a hurry has come")
    uploads.wake()
    wait_until(lambda: told.read_text() == "\n\n!\n!\n", 20, "a hurry has come for what was captured since")
    uploads._handle({"event": "durable", "version": 1, "bytes_added": 4})
    waits.join()
    uploads.wake()
    wait_until(lambda: told.read_text() == "\n\n!\n!\n\n", 20, "nobody waits any more")


def test_a_process_that_does_not_read_keeps_nobody_waiting(start: Callable[[str], Uploads], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    uploads = start(f"touch {begun}; exec sleep 60")
    wait_until(lambda: begun.exists() and uploads._process.running is not None, 20, "the process has begun")
    for _ in range(100_000):
        uploads.wake()
