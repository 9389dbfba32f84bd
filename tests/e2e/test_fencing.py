"""One writer: who is refused, who waits and for how long, and what becomes of one that lost the store to another."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptfs.format.lease import LeaseRecord, decode_lease, encode_lease
from tests.cli.scene import assert_failed, ckptfs
from tests.mounting import Mount, MountFailedError, Mounts, touch, wait_until
from tests.snapshot import assert_same, snapshot

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

HOST = socket.gethostname()


def lease_of(mounts: Mounts) -> LeaseRecord:
    """The lease as it is in the store."""
    return decode_lease((mounts.directory / "store" / "lease").read_bytes())


def other_machine(mounts: Mounts) -> None:
    """Make the lease look as if its holder were on a machine whose locks cannot be seen from here."""
    temporary = mounts.directory / "lease.tmp"
    temporary.write_bytes(encode_lease(replace(lease_of(mounts), machine="another boot")))
    temporary.rename(mounts.directory / "store" / "lease")


def refusal(mounts: Mounts, **options: Any) -> MountFailedError:
    """Mount read-write beside what is there; return why it was refused."""
    with pytest.raises(MountFailedError) as caught:
        mounts(name="second", **{"cache": "cache-2", **options})
    return caught.value


def kill_all(mounted: Mount) -> None:
    """kill -9 of both processes."""
    pid = mounted.upload_pid()
    mounted.kill()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def seconds(action: Callable[[], object]) -> float:
    """How long something takes."""
    started_s = time.monotonic()
    action()
    return time.monotonic() - started_s


def is_fenced(mounted: Mount) -> bool:
    """True if a mount knows that it is fenced."""
    return mounted.status()["fenced"] is not None


def touch_errno(mounted: Mount) -> int:
    """The errno of a touch, 0 if it succeeds."""
    try:
        touch(mounted.root)
    except OSError as error:
        return error.errno or -1
    return 0


def test_a_second_writer_on_the_same_machine_is_refused_at_once_by_the_holders_name(mount: Mounts) -> None:
    mounted = mount()
    touch(mounted.root)
    errors: list[MountFailedError] = []
    assert seconds(lambda: errors.append(refusal(mount))) < 10
    assert f"is mounted read-write by {HOST} (pid {mounted.pid}" in errors[0].fact
    assert "--takeover" in (errors[0].hint or "")
    assert touch_errno(mounted) == 0
    mounted.sync()


def test_a_second_writer_with_the_same_cache_directory_is_refused_by_the_holders_name_too(mount: Mounts) -> None:
    mounted = mount()
    for takeover in (False, True):
        error = refusal(mount, cache="cache", takeover=takeover)
        assert f"is mounted read-write by {HOST} (pid {mounted.pid}" in error.fact
        assert "cache" in (error.hint or "")
    assert touch_errno(mounted) == 0


def test_a_second_writer_on_another_machine_is_refused_as_soon_as_the_holder_is_seen_alive(mount: Mounts) -> None:
    mounted = mount(lease_s=15)
    wait_until(lambda: lease_of(mount).counter > 1, 10, "the upload process has renewed the lease")
    other_machine(mount)
    errors: list[MountFailedError] = []
    # the holder renews every 5 s; nobody waits for the 15 s of the lease
    assert seconds(lambda: errors.append(refusal(mount))) < 12
    assert f"is mounted read-write by {HOST} (pid {mounted.pid}, renewed just now)" in errors[0].fact


def test_a_dead_writer_on_the_same_machine_is_not_waited_for(mount: Mounts) -> None:
    mounted = mount()
    touch(mounted.root)
    mounted.sync()
    kill_all(mounted)
    assert seconds(lambda: mount(name="second", cache="cache-2")) < 10


def test_a_writer_that_unmounted_is_not_waited_for_on_any_machine(mount: Mounts) -> None:
    mounted = mount()
    mounted.unmount()
    other_machine(mount)
    assert seconds(lambda: mount(name="second", cache="cache-2")) < 10


def test_a_dead_writer_on_another_machine_is_waited_for_as_long_as_its_lease_says(mount: Mounts) -> None:
    mounted = mount(lease_s=4)
    wait_until(lambda: mounted.upload_pid() is not None, 10, "the upload process runs")
    pid = mounted.pid
    kill_all(mounted)
    other_machine(mount)
    second = mount.prepare(name="second", cache="cache-2")
    took_s = seconds(second.start)
    assert 4 <= took_s < 14
    assert second.process is not None
    assert second.process.stderr is not None
    said = second.process.stderr.read().decode()
    assert re.search(rf"is held by {HOST} \(pid {pid}\); watching up to 4 s", said), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_mount_command_that_is_ended_while_it_waits_mounts_nothing_later(
    mount: Mounts, tmp_path: Path, number: signal.Signals
) -> None:
    kill_all(mount(lease_s=4))
    other_machine(mount)
    (tmp_path / "here").mkdir()
    arguments = ["mount", mount.file_store, tmp_path / "here", "--cache-dir", tmp_path / "cache-2"]
    with subprocess.Popen([sys.executable, "-m", "ckptfs", *arguments], stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        assert "watching up to 4 s" in command.stderr.readline()
        command.send_signal(number)
        # its processes have this pipe, too
        assert command.stderr.read().strip() == ""
    assert command.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert not os.path.ismount(tmp_path / "here")
    assert lease_of(mount).epoch == 1


def test_takeover_does_not_wait(mount: Mounts) -> None:
    kill_all(mount())
    other_machine(mount)
    assert seconds(lambda: mount(name="second", cache="cache-2", takeover=True)) < 10


@pytest.mark.timeout(150)
def test_a_writer_that_was_taken_over_can_save_no_more_and_what_it_had_captured_is_kept_aside(
    mount: Mounts, tmp_path: Path
) -> None:
    old = mount(lease_s=3)
    (old.root / "shared.bin").write_bytes(b"in both")
    touch(old.root)
    old.sync()
    upload_pid = old.upload_pid()
    assert upload_pid is not None
    os.kill(upload_pid, signal.SIGSTOP)
    (old.root / "late.bin").write_bytes(b"captured and never committed")
    touch(old.root, "late")

    new = mount(name="second", cache="cache-2", takeover=True)
    assert new.marker()["version"] == 1
    (new.root / "shared.bin").write_bytes(b"the new writer's")
    touch(new.root, "new")
    new.sync()
    newest = snapshot(new.root)

    os.kill(upload_pid, signal.SIGCONT)
    wait_until(lambda: is_fenced(old), 20, "the old writer knows")
    assert f"taken over by {HOST} (pid {new.pid}" in old.status()["fenced"]
    assert re.search(rf"ERROR .*fenced error=.*taken over by {HOST} \(pid {new.pid}", old.log), old.log
    assert touch_errno(old) == errno.EROFS
    run = ckptfs("save", old.root)
    assert run.code == 1
    assert "another writer took the store over" in run.err
    with pytest.raises(OSError) as caught:
        old.sync()
    assert caught.value.errno == errno.EIO
    assert (old.marker()["state"], old.marker()["error"]) == ("failed", old.status()["fenced"])
    # it is a filesystem still
    (old.root / "after.bin").write_bytes(b"written after the takeover")
    assert (old.root / "late.bin").read_bytes() == b"captured and never committed"
    assert [each["kind"] for each in ckptfs("recover", old.root, "--json").json] == ["aside"]
    run = ckptfs("umount", old.root)
    assert_failed(
        run, f"1 version (28 B) is not durable: file://{mount.directory}/store was taken over", "`ckptfs recover"
    )
    assert "can never enter history" in old.log
    assert [record["note"] for record in ckptfs("log", mount.file_store, "--json").json] == ["new", None]
    new.unmount()

    again = mount()
    assert_same(newest, snapshot(again.root), "what the new writer saved")
    kept = {each["kind"]: each for each in ckptfs("recover", again.root, "--json").json}
    assert kept["aside"]["note"] == "late"
    assert kept["aside"]["paths"] == ["late.bin"]
    assert kept["unsaved"]["paths"] == ["after.bin"]
    assert ckptfs("recover", again.root, "--copy-to", tmp_path / "out").code == 0
    (late,) = (tmp_path / "out").glob("*/late.bin")
    assert late.read_bytes() == b"captured and never committed"
    assert again.save() == 3
    again.sync()


def test_unmounting_tells_of_a_version_that_was_put_aside_already(mount: Mounts) -> None:
    # the lease is not renewed before the upload goes on: the uploader meets the other's version first
    old = mount(lease_s=300)
    touch(old.root)
    old.sync()
    upload_pid = old.upload_pid()
    assert upload_pid is not None
    store, away = mount.directory / "store", mount.directory / "away"
    store.rename(away)
    (old.root / "late.bin").write_bytes(b"captured and never committed")
    touch(old.root, "late")
    wait_until(lambda: old.status()["error"] is not None, 60, "it was tried, and will ask for the newest again")
    os.kill(upload_pid, signal.SIGSTOP)
    away.rename(store)
    new = mount(name="second", cache="cache-2", takeover=True)
    touch(new.root, "new")
    new.sync()
    os.kill(upload_pid, signal.SIGCONT)
    wait_until(lambda: old.marker()["state"] == "failed", 60, "the version is lost")
    assert list((old.cache / "aside").iterdir())
    assert_failed(
        ckptfs("umount", old.root), "1 version (28 B) is not durable: version 2 cannot follow", "`ckptfs recover"
    )
    assert "can never enter history" in old.log
    assert old.wait() == 1


def test_a_writer_that_was_stopped_during_the_takeover_commits_nothing_when_it_goes_on(mount: Mounts) -> None:
    old = mount(lease_s=3)
    touch(old.root)
    old.sync()
    upload_pid = old.upload_pid()
    assert upload_pid is not None
    for index in range(20):
        (old.root / f"file-{index}").write_bytes(os.urandom(200_000))
    touch(old.root, "late")
    # somewhere in the upload
    time.sleep(0.05)
    os.kill(upload_pid, signal.SIGSTOP)
    os.kill(old.pid, signal.SIGSTOP)
    try:
        new = mount(name="second", cache="cache-2", takeover=True)
        base = new.marker()["version"]
        for _ in range(3):
            touch(new.root, "new")
        new.sync()
    finally:
        os.kill(old.pid, signal.SIGCONT)
        os.kill(upload_pid, signal.SIGCONT)
    wait_until(lambda: is_fenced(old), 20, "the old writer knows")
    assert old.status()["error"] == old.status()["fenced"]
    assert re.search(rf"ERROR .*fenced error=.*taken over by {HOST} \(pid {new.pid}", old.log), old.log
    assert touch_errno(old) == errno.EROFS
    touch(new.root, "new")
    new.sync()
    records = ckptfs("log", mount.file_store, "--json").json
    assert [(record["version"], record["note"]) for record in records[:4]] == [
        (base + 4 - index, "new") for index in range(4)
    ]
    assert ckptfs("verify", mount.file_store, "--read-data").code == 0


@pytest.mark.timeout(150)
def test_two_that_take_over_from_each_other_leave_one_history_without_gaps(mount: Mounts) -> None:
    mounts = []
    for index in range(4):
        mounted = mount(name=f"mnt-{index}", cache=f"cache-{index % 2}-{index}", takeover=True)
        mounts.append(mounted)
        (mounted.root / "step").write_text(str(index))
        touch(mounted.root, f"by {index}")
        mounted.sync()
        assert mounted.marker()["version"] == index + 1
    for loser in mounts[:-1]:
        assert loser.is_alive
        # it may take a touch to find out
        touch_errno(loser)
        wait_until(lambda each=loser: is_fenced(each), 30, "the loser knows")  # type: ignore[misc]
    notes = [record["note"] for record in ckptfs("log", mount.file_store, "--json").json]
    assert notes == [f"by {index}" for index in (3, 2, 1, 0)]


def test_any_number_may_read_while_one_writes(mount: Mounts) -> None:
    writer = mount()
    (writer.root / "model.bin").write_bytes(b"version 1")
    touch(writer.root)
    writer.sync()
    seen = snapshot(writer.root)
    readers = [
        mount(name=f"reader-{index}", cache="cache" if index else "cache-2", read_only=True, lease_s=1)
        for index in range(3)
    ]
    for reader in readers:
        assert_same(seen, snapshot(reader.root), "version 1, read-only")
        assert reader.status()["read_only"]
        assert touch_errno(reader) == errno.EROFS
        with pytest.raises(OSError) as caught:
            (reader.root / "model.bin").write_bytes(b"no")
        assert caught.value.errno == errno.EROFS
    (writer.root / "model.bin").write_bytes(b"version 2")
    touch(writer.root)
    writer.sync()
    assert writer.status()["fenced"] is None
    # a reader shows what it was mounted with
    assert [(reader.root / "model.bin").read_bytes() for reader in readers] == [b"version 1"] * 3
    for reader in readers:
        reader.unmount()
    writer.unmount()


def test_a_mount_that_follows_moves_on_to_each_new_version(mount: Mounts) -> None:
    writer = mount()
    (writer.root / "model.bin").write_bytes(b"version 1")
    (writer.root / "only-1").mkdir()
    touch(writer.root)
    writer.sync()
    follower = mount(name="follower", cache="cache-2", read_only=True, follow=True)
    kept = os.open(follower.root / "model.bin", os.O_RDONLY)
    try:
        for number in (2, 3):
            (writer.root / "model.bin").write_bytes(b"version %d" % number)
            (writer.root / f"only-{number}").mkdir()
            (writer.root / f"only-{number - 1}").rmdir()
            touch(writer.root)
            writer.sync()
            seen = snapshot(writer.root)
            wait_until(lambda n=number: follower.marker()["version"] == n, 20, "it moved on")  # type: ignore[misc]
            # what the kernel remembers of names is a second old at most
            wait_until(lambda tree=seen: snapshot(follower.root) == tree, 5, "all of it did")  # type: ignore[misc]
        assert os.pread(kept, 100, 0) == b"version 1"
    finally:
        os.close(kept)
