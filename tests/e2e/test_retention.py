"""Pruning while mounts write, restore and read: by the mount's own rules, and by `ckptfs prune` beside it."""

import errno
import os
from pathlib import Path

import pytest

from tests.cli.scene import ckptfs
from tests.mounting import Mount, Mounts, touch, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def versions(mounts: Mounts) -> list[int]:
    """The versions that `ckptfs log` lists, newest first."""
    return [row["version"] for row in ckptfs("log", mounts.file_store, "--json").json]


def packs(mounts: Mounts) -> set[Path]:
    return set((mounts.directory / "store" / "p").iterdir())


def save(mounted: Mount, content: bytes) -> int:
    """Write the one file anew, save, and wait until that is durable."""
    (mounted.root / "model.bin").write_bytes(content)
    version = mounted.save()
    mounted.sync()
    return version


def prune(mounts: Mounts) -> list[int]:
    run = ckptfs("prune", mounts.file_store, "--keep-last", "1", "--json")
    assert run.code == 0, run.err
    return list(run.json["dropped"])


def test_a_mount_drops_what_its_rules_do_not_keep(mount: Mounts) -> None:
    mounted = mount(keep_last=2, keep_every=4)
    for number in range(1, 7):
        assert save(mounted, os.urandom(100_000)) == number
        # looked into, so that its tree is in memory
        assert (mounted.root / ".versions" / str(number) / "model.bin").stat().st_size == 100_000
    wait_until(lambda: versions(mount) == [6, 5, 4], 20, "the others are dropped")
    wait_until(lambda: len(packs(mount)) == 3, 20, "their packs are deleted")
    # what local disk keeps of a version that was pruned: the store has no such segment
    (objects,) = (Path(mounted.status()["cache"]) / "objects").iterdir()
    left_over = objects / f"m_{'0' * 32}"
    left_over.write_bytes(b"a manifest")
    wait_until(
        lambda: sorted(os.listdir(mounted.root / ".versions")) == ["4", "5", "6", "latest"], 5, "they are hidden"
    )
    for gone in ("1", "1/model.bin"):
        wait_until(lambda path=gone: not (mounted.root / ".versions" / path).exists(), 10, f"{gone} is gone")  # type: ignore[misc]
    with pytest.raises(OSError) as caught:
        mounted.restore(1)
    assert caught.value.errno == errno.ENOENT
    assert len((mounted.root / ".versions" / "4" / "model.bin").read_bytes()) == 100_000
    # what the last version lets go is dropped before the mount has ended
    save(mounted, os.urandom(100_000))
    wait_until(lambda: not left_over.exists(), 20, "what is kept of it is dropped")
    assert mounted.terminate() == 0
    assert versions(mount) == [7, 6, 4]
    assert len(packs(mount)) == 3
    assert ckptfs("verify", mount.file_store, "--read-data").code == 0


def test_what_crashed_uploads_left_goes_when_a_mount_with_rules_begins(mount: Mounts) -> None:
    first = mount()
    save(first, os.urandom(100_000))
    first.unmount()
    (named,) = packs(mount)
    orphan = named.with_name("0000000001-" + "ab" * 16)
    orphan.write_bytes(named.read_bytes())
    mounted = mount(keep_last=5)
    wait_until(lambda: packs(mount) == {named}, 20, "it is gone")
    assert versions(mount) == [1]
    assert mounted.terminate() == 0


def test_a_live_tree_that_was_restored_keeps_its_version_until_it_is_saved(mount: Mounts) -> None:
    old = os.urandom(300_000)
    first = mount()
    save(first, old)
    save(first, os.urandom(300_000))
    save(first, os.urandom(300_000))
    first.unmount()
    mounted = mount(cache="cache-2")
    mounted.restore(1)
    # nothing of it is here yet
    assert mounted.status()["not_fetched_files"] == 1
    assert prune(mount) == [2]
    assert versions(mount) == [3, 1]
    assert mounted.save() == 4
    mounted.sync()
    # a mount point will do
    run = ckptfs("prune", mounted.root, "--keep-last", "1", "--json")
    assert run.json["dropped"] == [1, 3]
    assert (mounted.root / "model.bin").read_bytes() == old
    assert ckptfs("verify", mount.file_store, "--read-data").code == 0


def test_a_read_only_mount_of_a_version_that_is_pruned_says_so(mount: Mounts) -> None:
    writer = mount()
    (writer.root / "read.bin").write_bytes(b"before")
    save(writer, os.urandom(300_000))
    (writer.root / "read.bin").write_bytes(b"after")
    save(writer, os.urandom(300_000))
    reader = mount(name="reader", cache="cache-2", version="1")
    assert (reader.root / "read.bin").read_bytes() == b"before"
    assert reader.status()["error"] is None
    assert prune(mount) == [1]
    assert sorted(os.listdir(reader.root)) == ["model.bin", "read.bin"]
    with pytest.raises(OSError) as caught:
        (reader.root / "model.bin").read_bytes()
    assert caught.value.errno == errno.EIO
    assert "went with the versions that were pruned" in reader.log
    wait_until(lambda: reader.status()["error"] is not None, 10, "it is said")
    assert "version 1, which is shown here, was pruned" in reader.status()["error"]
    assert "pruned version=1" in reader.log
    assert (reader.root / "read.bin").read_bytes() == b"before"
    touch(writer.root)
    writer.sync()
    assert not (mount.directory / "store" / "d").exists()


def test_a_read_only_mount_of_a_pruned_version_goes_on_when_its_server_is_killed(mount: Mounts) -> None:
    writer = mount()
    (writer.root / "read.bin").write_bytes(b"before")
    save(writer, os.urandom(300_000))
    (writer.root / "read.bin").write_bytes(b"after")
    save(writer, os.urandom(300_000))
    reader = mount(name="reader", cache="cache-2", version="1", prefetch=False, transport="passthrough")
    assert (reader.root / "read.bin").read_bytes() == b"before"
    assert prune(mount) == [1]
    reader.kill_server()
    assert sorted(os.listdir(reader.root)) == ["model.bin", "read.bin"]
    assert "version 1, which is shown here, was pruned" in reader.status()["error"]
    assert (reader.root / "read.bin").read_bytes() == b"before"
    with pytest.raises(OSError) as caught:
        (reader.root / "model.bin").read_bytes()
    assert caught.value.errno == errno.EIO
    assert "went with the versions that were pruned" in reader.log
    # and one after it, which finds it said already
    reader.kill_server()
    assert (reader.root / "read.bin").read_bytes() == b"before"
    assert reader.terminate() == 0


def test_an_old_version_that_is_pruned_while_it_is_read_is_not_taken_for_damaged(mount: Mounts) -> None:
    writer = mount()
    kept = os.urandom(300_000)
    save(writer, os.urandom(300_000))
    save(writer, kept)
    assert writer.terminate() == 0
    # whose cache directory has nothing of version 1
    other = mount(cache="cache-2", prefetch=False)
    with (other.root / ".versions" / "1" / "model.bin").open("rb", buffering=0) as old:
        assert prune(mount) == [1]
        with pytest.raises(OSError) as caught:
            old.read()
        assert caught.value.errno == errno.EIO
    assert "went with the versions that were pruned" in other.log
    # what is gone and was not pruned is damage
    (pack,) = packs(mount)
    pack.unlink()
    with pytest.raises(OSError):
        (other.root / "model.bin").read_bytes()
    marks = mount.directory / "store" / "d"
    wait_until(lambda: any(marks.glob("*-*-" + pack.name.partition("-")[2])), 20, "the damage is marked")
    assert all(pack.name in mark.name for mark in marks.glob("[!.]*"))
