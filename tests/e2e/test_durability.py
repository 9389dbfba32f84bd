"""Durable means: in the store, for anybody. What happens while the store is away, on a real S3 server."""

import errno
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.cli.scene import ckptfs
from tests.e2e.conftest import Outage
from tests.mounting import Mount, Mounts, touch, wait_until
from tests.snapshot import assert_same, snapshot

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.slow]

MIB = 1 << 20


class Touching(threading.Thread):
    """A touch of the marker that may block; in a thread, for the system call gives Python's lock up."""

    def __init__(self, mount: Mount) -> None:
        super().__init__(daemon=True)
        self._root = mount.root
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            touch(self._root)
        except OSError as error:
            self.error = error


def is_durable(mount: Mount, version: int) -> bool:
    """True if a mount's newest version is this, and durable."""
    marker = mount.marker()
    return (marker["version"], marker["state"]) == (version, "durable")


def failed_sync(mount: Mount) -> tuple[int, float]:
    """The errno of a sync, and the seconds that it took."""
    started_s = time.monotonic()
    with pytest.raises(OSError) as caught:
        mount.sync()
    return caught.value.errno or 0, time.monotonic() - started_s


def blocked(mount: Mount) -> Touching:
    """A touch that waits for room: the store is away, and what is pending is over the limit."""
    (mount.root / "model.bin").write_bytes(os.urandom(2 * MIB))
    touch(mount.root)
    (mount.root / "model.bin").write_bytes(os.urandom(2 * MIB))
    touching = Touching(mount)
    wait_until(lambda: mount.status()["blocked_s"] is not None, 10, "a touch is blocked")
    return touching


@pytest.mark.timeout(180)
def test_what_sync_returned_for_another_machine_can_restore(mount: Mounts, bucket: str, tmp_path: Path) -> None:
    mounted = mount(bucket)
    for step in range(1, 7):
        (mounted.root / "model.bin").write_bytes(os.urandom(300_000))
        (mounted.root / f"step-{step}").mkdir()
        seen = snapshot(mounted.root)
        touch(mounted.root, json.dumps({"step": step}))
        if step % 2:
            mounted.sync()
        else:
            subprocess.run(["sync", str(mounted.root / ".save")], check=True, timeout=60)
        target = tmp_path / f"restored-{step}"
        # another process, which knows nothing but the store's address
        run = ckptfs("restore", bucket, target, "--version", str(step))
        assert run.code == 0, run.err
        assert_same(seen, snapshot(target), f"version {step} on another machine")


@pytest.mark.timeout(120)
def test_sync_fails_in_time_while_the_store_is_away_and_the_version_gets_there_later(
    mount: Mounts, outage: Outage, tmp_path: Path
) -> None:
    mounted = mount(outage.url, sync_timeout_s=2.0)
    mounted.save()
    wait_until(lambda: is_durable(mounted, 1), 40, "version 1 is durable")
    outage.begin()
    (mounted.root / "model.bin").write_bytes(b"captured while the store was away")
    seen = snapshot(mounted.root)
    assert mounted.save() == 2
    number, took_s = failed_sync(mounted)
    assert number == errno.EIO
    assert 1.5 < took_s < 6
    marker, status = mounted.marker(), mounted.status()
    assert marker["version"] == 2
    assert marker["state"] in ("captured", "uploading")
    assert [version["version"] for version in status["pending"]] == [2]
    wait_until(lambda: mounted.status()["error"] is not None, 20, "the status says why")
    assert "cannot" in mounted.status()["error"]
    assert len(list((mounted.cache / "pending").iterdir())) == 1
    run = ckptfs("save", mounted.root, "--wait")
    assert run.code == 1
    assert run.err.startswith("ckptfs: error: ")
    outage.end()
    wait_until(lambda: is_durable(mounted, 3), 40, "version 3 is durable")
    assert mounted.status()["error"] is None
    run = ckptfs("restore", outage.url, tmp_path / "restored", "--version", "2")
    assert run.code == 0, run.err
    assert_same(seen, snapshot(tmp_path / "restored"), "version 2")


@pytest.mark.timeout(120)
def test_a_touch_waits_while_too_much_is_pending_and_says_so_and_goes_on_when_the_store_is_back(
    mount: Mounts, outage: Outage
) -> None:
    mounted = mount(outage.url, max_pending_bytes=MIB, sync_timeout_s=1.0)
    outage.begin()
    touching = blocked(mounted)
    time.sleep(0.5)
    assert touching.is_alive()
    assert "blocked a save" in mounted.log
    status = mounted.status()
    assert status["blocked_s"] > 0
    assert status["version"] == 1
    assert status["pending_bytes"] == 2 * MIB
    # nothing else waits with it
    (mounted.root / "log.txt").write_text("training goes on")
    number, took_s = failed_sync(mounted)
    assert number == errno.EIO
    assert took_s < 5
    outage.end()
    touching.join(40)
    assert not touching.is_alive()
    assert touching.error is None
    assert mounted.status()["blocked_s"] is None
    wait_until(lambda: is_durable(mounted, 2), 40, "version 2 is durable")


@pytest.mark.timeout(120)
def test_nothing_becomes_durable_in_the_mount_point_of_a_store_that_is_not_mounted(mount: Mounts) -> None:
    mounted = mount(sync_timeout_s=1.0)
    (mounted.root / "model.bin").write_bytes(b"first")
    assert mounted.save() == 1
    wait_until(lambda: is_durable(mounted, 1), 60, "version 1 is durable")
    store, away = mount.directory / "store", mount.directory / "away"
    store.rename(away)
    store.mkdir()
    (mounted.root / "model.bin").write_bytes(b"second")
    assert mounted.save() == 2
    assert failed_sync(mounted)[0] == errno.EIO
    wait_until(lambda: "another directory is in its place" in (mounted.status()["error"] or ""), 60, "it is said")
    assert not list(store.iterdir())
    store.rmdir()
    away.rename(store)
    wait_until(lambda: is_durable(mounted, 2), 60, "version 2 is durable")
    run = ckptfs("verify", mount.file_store, "--read-data")
    assert run.code == 0, run.out


@pytest.mark.timeout(120)
def test_holes_do_not_count_as_pending_bytes(mount: Mounts, outage: Outage) -> None:
    mounted = mount(outage.url, max_pending_bytes=MIB, sync_timeout_s=1.0)
    outage.begin()
    with (mounted.root / "memmap").open("wb") as file:
        file.seek(1 << 39)
        file.write(b"x" * 10_000)
        file.truncate(1 << 40)
    os.link(mounted.root / "memmap", mounted.root / "another name")
    assert mounted.save() == 1
    assert 10_000 <= mounted.status()["pending_bytes"] < MIB
    assert mounted.save() == 2
    outage.end()
    wait_until(lambda: is_durable(mounted, 2), 40, "version 2 is durable")


@pytest.mark.timeout(120)
def test_a_mount_with_a_waiting_touch_ends_in_time_and_the_touch_captures(mount: Mounts, outage: Outage) -> None:
    mounted = mount(outage.url, max_pending_bytes=MIB, drain_timeout_s=1.0)
    outage.begin()
    touching = blocked(mounted)
    seen = snapshot(mounted.root)
    started_s = time.monotonic()
    assert mounted.terminate() == 1
    assert time.monotonic() - started_s < 15
    touching.join(10)
    assert not touching.is_alive()
    assert touching.error is None
    outage.end()
    again = mount(outage.url)
    assert again.marker()["version"] == 2
    assert_same(seen, snapshot(again.root), "what the touch captured")
    again.sync()


@pytest.mark.timeout(120)
def test_unmounting_without_the_store_says_what_is_left_and_the_next_mount_finishes_it(
    mount: Mounts, outage: Outage
) -> None:
    mounted = mount(outage.url, drain_timeout_s=1.0)
    outage.begin()
    (mounted.root / "model.bin").write_bytes(b"left behind for a while")
    seen = snapshot(mounted.root)
    touch(mounted.root)
    touch(mounted.root)
    run = ckptfs("umount", mounted.root)
    assert run.code == 1
    first, second = run.err.splitlines()[-2:]
    assert first.startswith(f"ckptfs: error: unmounted {mounted.root}, but 2 versions (")
    assert str(mounted.cache) in second
    assert mounted.wait() == 1
    assert "unmounted with 2 version(s) not durable" in mounted.log
    assert [each["kind"] for each in ckptfs("recover", mounted.cache_dir, "--json").json] == ["pending", "pending"]
    outage.end()
    again = mount(outage.url)
    assert_same(seen, snapshot(again.root), "the newest captured version")
    again.sync()
    assert [version["version"] for version in ckptfs("log", outage.url, "--json").json] == [2, 1]
    assert ckptfs("umount", again.root).code == 0


@pytest.mark.timeout(120)
def test_a_store_that_hangs_holds_up_neither_a_sync_nor_the_end_for_longer_than_asked(
    mount: Mounts, outage: Outage
) -> None:
    mounted = mount(outage.url, sync_timeout_s=1.0, drain_timeout_s=1.0)
    os.kill(outage.pid, signal.SIGSTOP)
    try:
        touch(mounted.root)
        number, took_s = failed_sync(mounted)
        assert number == errno.EIO
        assert took_s < 5
        started_s = time.monotonic()
        assert mounted.terminate() == 1
        assert time.monotonic() - started_s < 25
    finally:
        os.kill(outage.pid, signal.SIGCONT)
    # the hung mount could not give the lease back, but its lock is free
    again = mount(outage.url)
    again.sync()
    assert is_durable(again, 1)


@pytest.mark.timeout(150)
def test_a_long_outage_costs_neither_memory_nor_log_and_versions_come_in_their_order(
    mount: Mounts, outage: Outage
) -> None:
    # a lease that is renewed every 0.1 s makes of seconds what hours are
    mounted = mount(outage.url, lease_s=0.3)
    assert mounted.save() == 1
    mounted.sync()
    outage.begin()
    said, memory_kib = len(mounted.log.splitlines()), resident_kib(mounted)
    for step in range(50):
        (mounted.root / "model.bin").write_bytes(os.urandom(20_000))
        touch(mounted.root, f"step={step}")
        time.sleep(0.05)
    wait_until(lambda: mounted.status()["error"] is not None, 20, "the status says why")
    time.sleep(2)
    lines = mounted.log.splitlines()[said:]
    assert sum("captured version=" in line for line in lines) == 50
    others = [line for line in lines if "captured version=" not in line]
    assert len(others) <= 4, others
    assert [each["version"] for each in mounted.status()["pending"]] == list(range(2, 52))
    assert resident_kib(mounted) - memory_kib < 30 * 1024
    outage.end()
    wait_until(lambda: is_durable(mounted, 51), 60, "version 51 is durable")
    logged = ckptfs("log", outage.url, "--json").json
    assert [each["note"] for each in logged] == [*({"step": step} for step in reversed(range(50))), None]
    assert mounted.status()["error"] is None


def resident_kib(mount: Mount) -> int:
    """Memory of the mount process and the upload process together."""
    total = 0
    for pid in (mount.pid, mount.upload_pid()):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total
