"""The upload process: its events, and that it may be killed at any moment (process.py X1 to X3)."""

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import PendingVersion, sweep_pending
from ckptfs.format.lease import decode_lease
from ckptfs.store.file import FileStore
from ckptfs.store.server_encryption import ServerEncryption
from ckptfs.transfer.encoding import EncoderPool
from ckptfs.transfer.events import Events
from ckptfs.transfer.fetch import Fetcher
from ckptfs.transfer.process import UploadProcess
from ckptfs.versions.history import open_history
from ckptfs.versions.writer import Writer
from tests.transfer.trees import HOLDER, acquire, capture

LEASE_S = 0.6


class Machine:
    """A store, a cache directory whose mount process we are, and a source tree."""

    def __init__(self, root: Path) -> None:
        self.store_path = root / "store"
        self.store_path.mkdir()
        self.source = root / "source"
        self.source.mkdir()
        self.store = FileStore(self.store_path)
        self.writer = acquire(self.store)
        self.cache = CacheDirectory(root / "cache")
        self.cache.prepare()
        self.started: list[subprocess.Popen[bytes]] = []
        self.write_session()
        self.first_counter = decode_lease(self.store.get("lease")).counter

    def write_session(self) -> None:
        names = {name: getattr(HOLDER, name) for name in ("host", "pid", "machine", "lock", "lock_id")}
        self.cache.write_session({"store": self.store.url, "epoch": self.writer.epoch, "lease_s": LEASE_S} | names)

    def write(self, name: str, content: bytes) -> None:
        """Give a name a new file: nothing guards the captured bytes of the old one here."""
        (self.source / name).unlink(missing_ok=True)
        (self.source / name).write_bytes(content)

    def capture(self, version: int) -> PendingVersion:
        return capture(self.source, self.cache.pending, version)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ckptfs.transfer.process", self.cache.root, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            bufsize=0,
        )
        self.started.append(process)
        return process

    def stop_all(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def pending(self) -> list[str]:
        return sorted(os.listdir(self.cache.pending))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.stop_all()


def wait_for(process: subprocess.Popen[bytes], event: str, timeout_s: float = 20.0, **fields: Any) -> dict[str, Any]:
    """Read events until one of a kind with some fields comes."""
    assert process.stdout is not None
    seen = []
    deadline_s = time.monotonic() + timeout_s
    while select.select([process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        line = process.stdout.readline()
        if not line:
            break
        found = json.loads(line)
        seen.append(found)
        if found["event"] == event and all(found.get(name) == value for name, value in fields.items()):
            return dict(found)
    raise AssertionError(f"no {event} {fields}; seen: {seen}")


def wait_for_lease(machine: Machine, renewals: int = 1) -> None:
    """Return when the upload process has renewed the lease so many times: it is at work then."""
    deadline_s = time.monotonic() + 20
    while lease_counter(machine) < machine.first_counter + renewals:
        assert time.monotonic() < deadline_s, f"the lease was not renewed {renewals} times"
        time.sleep(0.02)


def lease_counter(machine: Machine) -> int:
    return decode_lease(machine.store.get("lease")).counter


def finish(process: subprocess.Popen[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Be gone as the mount process; return what else was said, and the exit code. The lease is renewed at any time."""
    output, _ = process.communicate(timeout=20)
    events = map(json.loads, output.splitlines())
    return [event for event in events if event["event"] != "lease"], process.returncode


def content(machine: Machine, version: int, path: bytes) -> bytes:
    history = open_history(machine.store)
    return Fetcher(machine.store).read_file(history.tree(history.resolve(version))[path])


def test_a_version_goes_from_uploading_to_durable_and_out_of_pending(machine: Machine) -> None:
    machine.write("f", os.urandom(100_000))
    machine.capture(1)
    process = machine.start()
    assert wait_for(process, "uploading")["bytes_total"] == 100_000
    durable = wait_for(process, "durable")
    assert machine.pending() == []
    record = open_history(machine.store).head()
    assert record is not None
    assert durable == {
        "event": "durable",
        "version": 1,
        "seq": record.seq,
        "files": 1,
        "bytes": 100_000,
        "bytes_added": record.bytes_added,
        "bytes_new": 100_000,
    }
    assert finish(process) == ([], 0)


def test_a_line_on_stdin_wakes_it_up(machine: Machine) -> None:
    process = machine.start()
    machine.capture(1)
    assert process.stdin is not None
    for version in (2, 3):
        process.stdin.write(b"\n")
        wait_for(process, "durable", version=version - 1)
        machine.capture(version)
    assert [event["version"] for event in finish(process)[0] if event["event"] == "durable"] == [3]


def test_a_version_whose_touch_goes_on_is_left_alone_with_all_after_it(machine: Machine) -> None:
    for version in (1, 2, 3):
        machine.capture(version)
    name = "0000000002.0001"
    (machine.cache.pending / name).rename(machine.cache.pending / f"{name}.open")
    events, code = finish(machine.start())
    assert [event["version"] for event in events if event["event"] == "durable"] == [1]
    assert (code, machine.pending()) == (0, [f"{name}.open", "0000000003.0001"])


def test_it_finishes_the_queue_when_the_mount_process_is_gone(machine: Machine) -> None:
    for version in (1, 2, 3):
        machine.write("f", os.urandom(100_000))
        machine.capture(version)
    events, code = finish(machine.start())
    assert [event["version"] for event in events if event["event"] == "durable"] == [1, 2, 3]
    assert (code, machine.pending()) == (0, [])


def test_nobody_reading_its_events_does_not_stop_it(machine: Machine) -> None:
    machine.capture(1)
    process = machine.start()
    assert process.stdout is not None
    process.stdout.close()
    machine.capture(2)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert open_history(machine.store).numbers() == [1, 2]


def test_lost_data_put_a_version_and_those_built_on_it_aside(machine: Machine) -> None:
    machine.write("f", os.urandom(1000))
    machine.capture(1)
    machine.write("f", os.urandom(1000))
    (machine.capture(2).directory / "data" / "0").unlink()
    machine.capture(3)
    process = machine.start()
    wait_for(process, "durable", version=1)
    assert "data/0 cannot be read" in wait_for(process, "failed", version=2)["error"]
    assert "cannot follow version 1" in wait_for(process, "failed", version=3)["error"]
    assert machine.pending() == []
    aside = sorted(os.listdir(machine.cache.aside))
    assert [name[:15] for name in aside] == ["0000000002.0001", "0000000003.0001"]
    # the number is free again, for a version that is captured anew
    machine.capture(2)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    wait_for(process, "durable", version=2)
    assert finish(process)[1] == 0


def test_a_store_that_is_gone_is_asked_again_until_it_is_back(machine: Machine) -> None:
    machine.write("f", os.urandom(1000))
    process = machine.start()
    wait_for_lease(machine)
    machine.store_path.rename(machine.store_path.with_name("away"))
    machine.capture(1)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    first = wait_for(process, "retrying", version=1)
    second = wait_for(process, "retrying", version=1)
    assert 0 < first["next_s"] <= second["next_s"] * 2 <= 10.0
    assert "store" in first["error"]
    machine.store_path.with_name("away").rename(machine.store_path)
    wait_for(process, "durable", version=1)
    assert finish(process) == ([], 0)


def test_a_store_that_is_gone_at_the_start_is_asked_again_too(machine: Machine) -> None:
    machine.store_path.rename(machine.store_path.with_name("away"))
    machine.capture(1)
    process = machine.start()
    wait_for(process, "retrying", version=0)
    machine.store_path.with_name("away").rename(machine.store_path)
    wait_for(process, "durable", version=1)


def test_without_its_mount_process_it_gives_up_at_the_first_failure_and_keeps_the_version(machine: Machine) -> None:
    machine.capture(1)
    machine.store_path.rename(machine.store_path.with_name("away"))
    _, code = finish(machine.start())
    assert (code, machine.pending()) == (1, ["0000000001.0001"])


def test_a_takeover_is_noticed_while_it_is_idle(machine: Machine) -> None:
    process = machine.start()
    wait_for_lease(machine)
    acquire(machine.store)
    assert "taken over" in wait_for(process, "fenced")["error"]
    assert process.wait(20) == 3


def test_a_takeover_is_noticed_by_the_next_commit(machine: Machine) -> None:
    acquire(machine.store)
    machine.capture(1)
    process = machine.start()
    assert "taken over" in wait_for(process, "fenced")["error"]
    assert process.wait(20) == 3
    assert machine.pending() == ["0000000001.0001"]
    assert open_history(machine.store).numbers() == []


def test_the_lease_is_renewed_while_the_mount_process_lives_and_not_after(machine: Machine) -> None:
    process = machine.start()
    wait_for_lease(machine, 3)
    finish(process)
    last = lease_counter(machine)
    time.sleep(2 * LEASE_S)
    assert lease_counter(machine) == last


def test_the_lease_is_not_renewed_while_the_queue_is_finished_alone(machine: Machine) -> None:
    for version in range(1, 81):
        machine.write("f", os.urandom(500_000))
        machine.capture(version)
    process = machine.start()
    wait_for(process, "durable", version=1)
    assert process.stdin is not None
    process.stdin.close()
    began, before = time.monotonic(), lease_counter(machine)
    wait_for(process, "durable", timeout_s=90.0, version=80)
    assert process.wait(20) == 0
    # otherwise it would have been renewed this often
    assert (time.monotonic() - began) / (LEASE_S / 3) > 2
    assert lease_counter(machine) <= before + 1


def wait_until_blocked_on_a_lock(process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 20
    while not re.search(rf"-> FLOCK .* {process.pid} ", Path("/proc/locks").read_text()):
        assert time.monotonic() < deadline_s, "it does not wait for the lock"
        time.sleep(0.02)


def test_a_second_process_waits_for_the_first(machine: Machine) -> None:
    first = machine.start()
    wait_for_lease(machine)
    second = machine.start()
    wait_until_blocked_on_a_lock(second)
    machine.capture(1)
    assert first.stdin is not None
    first.stdin.write(b"\n")
    wait_for(first, "durable", version=1)
    assert int(machine.cache.upload_lock_path.read_text()) == first.pid
    assert second.poll() is None
    first.kill()
    machine.capture(2)
    assert second.stdin is not None
    second.stdin.write(b"\n")
    wait_for(second, "durable", version=2)
    assert int(machine.cache.upload_lock_path.read_text()) == second.pid


def test_sigterm_ends_it_at_once_and_ctrl_c_does_not(machine: Machine) -> None:
    process = machine.start()
    wait_for_lease(machine)
    process.send_signal(signal.SIGINT)
    machine.capture(1)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    wait_for(process, "durable", version=1)
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM


def test_killed_at_any_moment_it_loses_nothing_and_commits_nothing_twice(machine: Machine) -> None:
    contents: list[bytes] = []
    rng = random.Random(20)
    for version in range(1, 31):
        contents.append(os.urandom(rng.choice([10, 50_000, 3_000_000])))
        machine.write("f", contents[-1])
        machine.write(f"g{version % 5}", contents[-1][:1000])
        machine.capture(version)
    committed = set()
    kills = 0
    # on a busy machine a process may get no further than what the one before it was killed in
    while kills < 12 or (len(committed) <= 3 and kills < 60):
        kills += 1
        process = machine.start()
        # a version has three events: the moment falls anywhere in the work of the next two versions
        for _ in range(rng.randint(1, 6)):
            assert process.stdout is not None
            while select.select([process.stdout], [], [], 20.0)[0] and b'"lease"' in process.stdout.readline():
                pass
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        process.wait()
        committed.add(len(open_history(machine.store).numbers()))
        # what was being removed, as the next mount does
        sweep_pending(machine.cache.pending)
    assert len(committed) > 3, "the kills did not fall into the work"
    assert finish(machine.start())[1] == 0
    assert machine.pending() == []
    history = open_history(machine.store)
    records = list(history.versions())
    assert [record.version for record in records] == list(range(30, 0, -1))
    assert len({record.commit_id for record in records}) == 30
    for version, expected in enumerate(contents, 1):
        assert content(machine, version, b"f") == expected
        assert content(machine, version, b"g%d" % (version % 5)) == expected[:1000]


def test_memory_stays_bounded_with_a_file_of_600_mb(machine: Machine) -> None:
    block = bytearray(os.urandom(8 << 20))
    with (machine.source / "f").open("wb") as file:
        for number in range(75):
            # incompressible, and no two chunks alike
            block[:8] = block[4 << 20 : (4 << 20) + 8] = number.to_bytes(8, "little")
            block[8] = 1
            file.write(block)
    pending = machine.capture(1)
    (machine.source / "f").unlink()
    process = machine.start()
    wait_for(process, "durable", timeout_s=100)
    peak = next(
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    peak_bytes = int(peak.split()[1]) << 10
    record = open_history(machine.store).head()
    assert record is not None
    assert record.bytes_added > 620_000_000
    assert not pending.directory.exists()
    assert peak_bytes < 400 << 20


def test_a_process_of_an_earlier_mount_leaves_the_versions_of_the_next_alone(machine: Machine) -> None:
    machine.write("a", b"x")
    machine.capture(1)
    for session in (f"{machine.writer.epoch - 1}.{HOLDER.pid}", f"{machine.writer.epoch}.{HOLDER.pid + 1}"):
        assert machine.start(session).wait(20) == 1
        assert machine.pending() == ["0000000001.0001"]
    wait_for(machine.start(f"{machine.writer.epoch}.{HOLDER.pid}"), "durable", version=1)


def test_a_session_that_cannot_be_read_is_said_and_waited_for(machine: Machine) -> None:
    machine.cache.session.write_text("{}")
    process = machine.start()
    assert "does not say who writes" in wait_for(process, "retrying", version=0)["error"]
    machine.write_session()
    machine.capture(1)
    wait_for(process, "durable", version=1)


def test_a_writer_resumed_by_another_process_keeps_the_epoch(machine: Machine) -> None:
    machine.capture(1)
    finish(machine.start())
    record = open_history(machine.store).head()
    assert record is not None
    assert record.epoch == machine.writer.epoch
    assert Writer.resume(machine.store, machine.writer.epoch, HOLDER).newest == record


def test_it_writes_as_its_session_says_that_s3_is_to_encrypt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def open_store(url: str, **options: object) -> FileStore:
        asked.append(options["server_encryption"])
        return machine.store

    monkeypatch.setattr("ckptfs.transfer.process.open_store", open_store)
    encoders = EncoderPool(1, chunk_bytes=1 << 20)
    for more in ({}, {"sse": "AES256"}, {"sse": "aws:kms", "sse_kms_key_id": "alias/mine"}):
        machine.cache.write_session(machine.cache.read_session() | more)
        UploadProcess(machine.cache, Events(1), encoders)._open()
    assert asked == [None, ServerEncryption("AES256"), ServerEncryption("aws:kms", "alias/mine")]


# a process of SCHED_IDLE may not leave it without CAP_SYS_NICE, and a container may refuse the call
_POLICY = (
    "import os, sys; from ckptfs.transfer.process import let_others_first\n"
    "def refuse(*_): raise PermissionError(1, 'no')\n"
    "if sys.argv[1] == 'refused': os.sched_setscheduler = refuse\n"
    "elif sys.argv[1] == 'idle': os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
    "let_others_first(7); print(os.sched_getscheduler(0), os.nice(0))"
)


@pytest.mark.parametrize(
    ("case", "policy"), [("plain", os.SCHED_BATCH), ("idle", os.SCHED_IDLE), ("refused", os.SCHED_OTHER)]
)
def test_it_lets_others_first_as_far_as_it_may(case: str, policy: int) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _POLICY, case], check=True, capture_output=True, text=True, timeout=60
    )
    # the tests may give way themselves
    assert answer.stdout.split() == [str(int(policy)), str(min(19, os.nice(0) + 7))]
