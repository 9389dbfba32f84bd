"""Taking up a cache directory: each row of the table in docs/CONCURRENCY.md, with real mounts."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import write_seal
from ckptfs.capture.journal import with_checksums
from ckptfs.fs.recovery import claims_of
from ckptfs.store.open import open_store
from ckptfs.versions.leasing import Holder
from ckptfs.versions.writer import Writer
from tests.cli.scene import ckptfs
from tests.mounting import Mount, Mounts, touch, wait_until
from tests.snapshot import Snapshot, assert_same, snapshot

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def mounted_with_version_1(mounts: Mounts) -> Mount:
    """A mount whose version 1 is durable."""
    mounted = mounts()
    (mounted.root / "model.bin").write_bytes(b"version 1")
    (mounted.root / "kept.bin").write_bytes(b"the same in all versions")
    (mounted.root / "last").symlink_to("model.bin")
    # the mount hears of a close a moment after it; until then a file may change in the eyes of a capture
    time.sleep(0.3)
    touch(mounted.root)
    mounted.sync()
    return mounted


def die_with_pending(mounted: Mount, note: str = "pending") -> Snapshot:
    """Capture a version that cannot be uploaded, then kill both processes; return what was captured."""
    wait_until(lambda: mounted.upload_pid() is not None, 10, "the upload process runs")
    upload_pid = mounted.upload_pid()
    assert upload_pid is not None
    os.kill(upload_pid, signal.SIGSTOP)
    (mounted.root / "model.bin").write_bytes(b"captured, not durable")
    seen = snapshot(mounted.root)
    touch(mounted.root, note)
    os.kill(upload_pid, signal.SIGKILL)
    mounted.kill()
    return seen


def restart_machine(mounted: Mount) -> None:
    """Make all that the cache directory remembers of the running kernel that of an earlier one."""
    for directory in mounted.cache.glob("pending/*"):
        description = directory / "version.json"
        description.write_text(json.dumps(json.loads(description.read_bytes()) | {"boot": "an earlier boot"}))
        write_seal(directory, description.read_bytes(), (directory / "manifest").read_bytes())
    journal = mounted.cache / "journal"
    records = journal.read_bytes().split(b"\0")
    boot = with_checksums(b"Ban earlier boot\0")[:-1]
    journal.write_bytes(b"\0".join(boot if record[:1] == b"B" else record for record in records))


def kept(mounted: Mount) -> dict[str, list[str]]:
    """What recover lists: kind to the paths of all entries of that kind."""
    found: dict[str, list[str]] = {}
    for each in ckptfs("recover", mounted.root, "--json").json:
        found.setdefault(each["kind"], []).extend(each["paths"])
    return found


def said(mounted: Mount) -> str:
    """What a mount said to the user until it was ready."""
    assert mounted.process is not None
    assert mounted.process.stderr is not None
    return mounted.process.stderr.read().decode()


# who wrote to the store meanwhile


def died_after_its_fence(mounted: Mount, pid: int) -> None:
    """Do what a mount does until it dies between its fence and writing its session down."""
    cache = CacheDirectory(mounted.cache)
    session = cache.read_session()
    cache.write_session({**session, "claims": [*claims_of(session), ["this-host", pid]]})
    fence(mounted, "this-host", pid)


def fence(mounted: Mount, host: str, pid: int) -> None:
    """Take the store over."""
    store = open_store(mounted.store)
    try:
        Writer.acquire(store, Holder(host, pid, "a boot", "/nowhere", "0:0"), takeover=True)
    finally:
        store.close()


def test_pending_versions_outlive_mounts_that_died_right_after_their_fence(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    seen = die_with_pending(mounted)
    for pid in (4121, 4122, 4123):
        died_after_its_fence(mounted, pid)
    again = mount(takeover=True)
    assert again.marker()["version"] == 2
    assert_same(seen, snapshot(again.root), "version 2")
    again.sync()
    assert [record["note"] for record in ckptfs("log", mount.file_store, "--json").json] == ["pending", None]


def test_pending_versions_go_aside_when_another_writer_had_the_store_meanwhile(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    die_with_pending(mounted)
    died_after_its_fence(mounted, 4121)
    fence(mounted, "another-host", 4121)
    again = mount(takeover=True)
    assert again.marker()["version"] == 1
    assert_same(first, snapshot(again.root), "version 1")
    assert kept(again) == {"aside": ["model.bin"]}
    assert "another writer took the store over" in said(again)


# damage


def test_a_pending_version_with_lost_bytes_goes_aside_with_those_after_it(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    die_with_pending(mounted)
    (data,) = mounted.cache.glob("pending/*/data/0")
    data.unlink()
    again = mount()
    assert again.marker()["version"] == 1
    assert_same(first, snapshot(again.root), "version 1")
    assert "aside" in kept(again)
    assert "0 is missing" in said(again)
    assert again.save() == 2
    again.sync()


# restarts of the machine


def test_after_a_restart_of_the_machine_a_version_that_was_not_synced_goes_aside(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    die_with_pending(mounted)
    restart_machine(mounted)
    again = mount()
    assert again.marker()["version"] == 1
    assert_same(first, snapshot(again.root), "version 1")
    assert kept(again)["aside"] == ["model.bin"]
    assert "the machine restarted before its data were on disk" in said(again)


def test_after_a_restart_of_the_machine_a_version_that_was_left_by_an_unmount_goes_on(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    mounted.unmount()
    mounted = mount(drain_timeout_s=0.0)
    wait_until(lambda: mounted.upload_pid() is not None, 10, "the upload process runs")
    upload_pid = mounted.upload_pid()
    assert upload_pid is not None
    os.kill(upload_pid, signal.SIGSTOP)
    (mounted.root / "model.bin").write_bytes(b"left, but on disk")
    seen = snapshot(mounted.root)
    touch(mounted.root)
    mounted.process.terminate()  # type: ignore[union-attr]
    wait_until(lambda: "unmounted with" in mounted.log or not mounted.is_alive, 30, "it ends")
    os.kill(upload_pid, signal.SIGCONT)
    mounted.wait()
    assert list(mounted.cache.glob("pending/*/synced"))
    restart_machine(mounted)
    again = mount()
    assert again.marker()["version"] == 2
    assert_same(seen, snapshot(again.root), "version 2")
    again.sync()


def test_after_a_restart_of_the_machine_files_are_checked_by_their_hashes_before_use(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    mounted.unmount()
    # what a power cut does: the size and the time are on disk, the bytes are not
    for name in ("model.bin", "kept.bin"):
        path = mounted.cache / "live" / name
        status = path.stat()
        if name == "model.bin":
            path.write_bytes(bytes(status.st_size))
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    (mounted.cache / "live" / "half").write_bytes(b"written before the power cut, and in no journal")
    restart_machine(mounted)
    again = mount()
    assert_same(first, snapshot(again.root), "version 1")
    # neither the symlink nor what can be fetched again is kept as if it were unsaved
    assert kept(again) == {"unsaved": ["half"]}


# what the journal says


@pytest.mark.parametrize("prefetch", [False, True])
def test_files_that_a_restore_brought_back_are_right_after_a_save_and_a_crash(mount: Mounts, prefetch: bool) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    for name in ("model.bin", "kept.bin", "new.bin"):
        (mounted.root / name).write_bytes(b"version 2 of " + name.encode())
    touch(mounted.root)
    mounted.sync()
    mounted.unmount()
    mounted = mount(cache="cache-2", prefetch=prefetch)
    mounted.restore(1)
    # nobody has opened them: they may have no data yet
    touch(mounted.root)
    mounted.kill()
    again = mount(cache="cache-2")
    assert again.marker()["version"] == 3
    assert_same(first, snapshot(again.root), "version 3, which is version 1 again")
    assert list((again.cache / "unsaved").iterdir()) == []


def test_unsaved_bytes_written_through_a_further_name_are_not_taken_for_the_version(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    os.link(mounted.root / "model.bin", mounted.root / "further")
    (mounted.root / "further").write_bytes(b"never saved")
    mounted.kill()
    again = mount()
    assert_same(first, snapshot(again.root), "version 1")
    assert set(kept(again)["unsaved"]) == {"further", "model.bin"}


def test_a_tree_that_is_another_version_becomes_the_newest_without_keeping_what_is_in_the_store(
    mount: Mounts, tmp_path: Path
) -> None:
    mounted = mounted_with_version_1(mount)
    (mounted.root / "unsaved.bin").write_bytes(b"never saved")
    mounted.kill()
    other = mount(name="other", cache="cache-2")
    (other.root / "model.bin").write_bytes(b"by another machine")
    (other.root / "kept.bin").unlink()
    touch(other.root)
    other.sync()
    newest = snapshot(other.root)
    other.unmount()
    again = mount()
    assert_same(newest, snapshot(again.root), "version 2")
    assert kept(again) == {"unsaved": ["unsaved.bin"]}


def test_what_only_the_live_tree_has_left_of_a_version_is_kept_when_the_store_was_put_back(mount: Mounts) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    (mounted.root / "model.bin").write_bytes(b"version 2")
    (mounted.root / "new.bin").write_bytes(b"of version 2 alone")
    mounted.save()
    mounted.sync()
    mounted.unmount()
    min((mount.directory / "store" / "c").iterdir()).unlink()
    again = mount(accept_rollback=True)
    assert_same(first, snapshot(again.root), "version 1")
    assert set(kept(again)["unsaved"]) == {"model.bin", "new.bin"}


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_that_was_put_back_over_a_session_is_taken_up_at_the_first_time_of_asking(
    mount: Mounts, read_only: bool
) -> None:
    mounted = mounted_with_version_1(mount)
    first = snapshot(mounted.root)
    mounted.unmount()
    shutil.copytree(mount.directory / "store", mount.directory / "older")
    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"version 2")
    mounted.save()
    mounted.sync()
    mounted.unmount()
    shutil.rmtree(mount.directory / "store")
    (mount.directory / "older").rename(mount.directory / "store")
    again = mount(accept_rollback=True, read_only=read_only)
    assert_same(first, snapshot(again.root), "version 1")


def test_recover_lists_and_copies_what_was_never_saved_before_and_after_the_next_mount(
    mount: Mounts, tmp_path: Path
) -> None:
    writer = mount(cache="cache-0")
    (writer.root / "large.bin").write_bytes(bytes(1 << 20))
    touch(writer.root)
    writer.unmount()
    mounted = mount()
    (mounted.root / "saved.bin").write_bytes(b"saved")
    (mounted.root / "old").mkdir()
    (mounted.root / "old" / "within.bin").write_bytes(b"saved, and moved")
    assert mounted.save() == 2
    mounted.sync()
    # what a mount shows is in the mount
    (mounted.root / "unsaved.bin").write_bytes(b"never saved")
    (mounted.root / "old").rename(mounted.root / "new")
    (mounted.root / "large.bin").rename(mounted.root / "not-fetched.bin")
    assert ckptfs("recover", mounted.root, "--json").json == []
    mounted.kill()
    expected = {"unsaved.bin": b"never saved", "new/within.bin": b"saved, and moved"}
    (left,) = ckptfs("recover", mounted.cache_dir, "--json").json
    assert (left["kind"], left["paths"], left["bytes"]) == ("unsaved", sorted(expected), 27)
    assert ckptfs("recover", mounted.cache_dir, "--copy-to", tmp_path / "before").code == 0
    again = mount()
    assert sorted(path.name for path in again.root.iterdir()) == ["large.bin", "old", "saved.bin"]
    assert ckptfs("recover", again.root, "--copy-to", tmp_path / "after").code == 0
    for place in ("before", "after"):
        (top,) = (tmp_path / place).iterdir()
        assert {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*.bin")} == expected, place


def test_recover_copies_a_symlink_that_took_a_directorys_place(mount: Mounts, tmp_path: Path) -> None:
    mounted = mount()
    for name in ("latest", "step-2"):
        (mounted.root / name).mkdir()
        (mounted.root / name / "model.bin").write_bytes(name.encode())
    touch(mounted.root)
    mounted.sync()
    shutil.rmtree(mounted.root / "latest")
    (mounted.root / "latest").symlink_to("step-2")
    mounted.kill()
    (left,) = ckptfs("recover", mounted.cache_dir, "--json").json
    assert left["paths"] == ["latest"]
    assert ckptfs("recover", mounted.cache_dir, "--copy-to", tmp_path / "out").code == 0
    (top,) = (tmp_path / "out").iterdir()
    assert [(path.name, os.readlink(path)) for path in top.iterdir()] == [("latest", "step-2")]
