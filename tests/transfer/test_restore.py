"""Restoring into a directory: all of it or a part, over what is there, checked, and never outside the target."""

import ctypes
import os
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfs.errors import ChunkCorruptError, InvalidInputError, NoSuchVersionError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Chunk, Entry, Kind, Tree
from ckptfs.store.file import FileStore
from ckptfs.transfer.materialize import materialize
from ckptfs.transfer.restore import IncompleteRestoreError, restore
from ckptfs.transfer.selection import select
from ckptfs.transfer.upload import VersionUploader
from ckptfs.versions.history import open_history
from tests.transfer.conftest import Bench
from tests.transfer.trees import acquire, capture, snapshot
from tests.versions.scene import collect

MIB = 1 << 20
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def bring(bench: Bench, record: CommitRecord, *paths: bytes, target: Path | None = None) -> Tree:
    return restore(bench.history(), bench.store, record, target or bench.target, paths)


def pack_reads(bench: Bench) -> int:
    return sum(1 for operation, key in bench.store.requests if operation == "get" and key.startswith("p/"))


@pytest.fixture
def record(bench: Bench) -> CommitRecord:
    """A version with a few directories, hard links across them, and files with data."""
    (bench.source / "a" / "deep").mkdir(parents=True)
    (bench.source / "b").mkdir()
    (bench.source / "a" / "f").write_bytes(os.urandom(5 * MIB))
    (bench.source / "a" / "deep" / "g").write_bytes(b"g" * 100)
    (bench.source / "a-").write_bytes(b"sorts between a and a/")
    os.link(bench.source / "a" / "f", bench.source / "b" / "f2")
    (bench.source / "b" / "s").symlink_to("../a")
    os.utime(bench.source / "a", ns=(1, 1_000_000_001))
    os.chmod(bench.source / "a", 0o711)
    return bench.save()


def test_everything_is_restored_and_progress_ends_with_all_bytes(bench: Bench, record: CommitRecord) -> None:
    progress: list[tuple[int, int]] = []
    restore(bench.history(), bench.store, record, bench.target, on_progress=lambda *row: progress.append(row))
    assert snapshot(bench.target) == snapshot(bench.source)
    total = 5 * MIB + 100 + len("sorts between a and a/")
    assert (progress[0], progress[-1]) == ((0, total), (total, total))
    assert progress == sorted(progress)


def test_a_path_brings_all_below_it_and_the_directories_on_the_way(bench: Bench, record: CommitRecord) -> None:
    restored = bring(bench, record, b"a/deep/")
    assert restored.keys() == {b"a/deep", b"a/deep/g"}
    everything = snapshot(bench.source)
    wanted = snapshot(bench.target)
    assert wanted.keys() == {b"", b"a", b"a/deep", b"a/deep/g"}
    assert all(wanted[path] == everything[path] for path in (b"a", b"a/deep", b"a/deep/g"))


def test_a_file_is_restored_with_its_links_only_as_far_as_they_were_asked_for(
    bench: Bench, record: CommitRecord
) -> None:
    bring(bench, record, b"b/f2")
    assert (bench.target / "b" / "f2").read_bytes() == (bench.source / "a" / "f").read_bytes()
    assert os.stat(bench.target / "b" / "f2").st_nlink == 1
    assert not (bench.target / "a").exists()


def test_directories_on_the_way_that_exist_keep_their_attributes(bench: Bench, record: CommitRecord) -> None:
    (bench.target / "a").mkdir(parents=True)
    os.chmod(bench.target / "a", 0o770)
    os.chmod(bench.target, 0o750)
    bring(bench, record, b"a/deep/g")
    assert stat.S_IMODE(os.stat(bench.target / "a").st_mode) == 0o770
    assert stat.S_IMODE(os.stat(bench.target).st_mode) == 0o750


def test_a_path_that_the_version_lacks_is_an_error_and_nothing_is_made(bench: Bench, record: CommitRecord) -> None:
    with pytest.raises(InvalidInputError, match=r"version 1 has no 'a/nothing'"):
        bring(bench, record, b"a/f", b"a/nothing")
    assert not bench.target.exists()


def test_a_name_that_only_begins_like_a_chosen_directory_is_not_chosen(bench: Bench, record: CommitRecord) -> None:
    tree = bench.history().tree(record)
    chosen, ancestors = select(tree, [b"a"], 1)
    assert chosen.keys() == {b"a", b"a/f", b"a/deep", b"a/deep/g"}
    assert ancestors.keys() == {b""}


def test_what_the_version_does_not_have_stays(bench: Bench, record: CommitRecord) -> None:
    (bench.target / "a").mkdir(parents=True)
    (bench.target / "a" / "mine").write_text("mine")
    bring(bench, record)
    assert (bench.target / "a" / "mine").read_text() == "mine"


def test_a_file_that_is_right_already_is_not_fetched_but_gets_its_attributes(
    bench: Bench, record: CommitRecord
) -> None:
    bring(bench, record)
    os.chmod(bench.target / "a-", 0o600)
    (bench.target / "a" / "deep" / "g").write_bytes(b"x" * 100)
    bench.store.requests.clear()
    bring(bench, record)
    assert snapshot(bench.target) == snapshot(bench.source)
    assert pack_reads(bench) >= 1
    bench.store.requests.clear()
    bring(bench, record, b"a-", b"a/deep")
    assert pack_reads(bench) == 0


def test_a_file_with_several_names_that_is_right_already_is_not_fetched(bench: Bench, record: CommitRecord) -> None:
    bring(bench, record)
    before = os.stat(bench.target / "a" / "f").st_ino
    bench.store.requests.clear()
    bring(bench, record)
    assert pack_reads(bench) == 0
    # killed before it had its other name, or before that took another's place
    (bench.target / "b" / "f2").unlink()
    bring(bench, record)
    (bench.target / "b" / "f2").unlink()
    (bench.target / "b" / "f2").write_bytes((bench.target / "a" / "f").read_bytes())
    bring(bench, record)
    assert pack_reads(bench) == 0
    assert os.stat(bench.target / "a" / "f").st_ino == before
    assert snapshot(bench.target) == snapshot(bench.source)
    assert not list(bench.target.rglob(".ckptfs-*"))


def test_a_file_with_another_name_elsewhere_is_replaced_and_not_written_into(
    bench: Bench, record: CommitRecord
) -> None:
    bench.target.mkdir()
    elsewhere = bench.target.parent / "elsewhere"
    elsewhere.write_bytes(b"precious")
    os.link(elsewhere, bench.target / "a-")
    bring(bench, record, b"a-")
    assert elsewhere.read_bytes() == b"precious"
    assert (bench.target / "a-").read_bytes() == b"sorts between a and a/"


def test_a_file_with_the_same_bytes_and_another_name_elsewhere_leaves_that_alone(
    bench: Bench, record: CommitRecord
) -> None:
    bench.target.mkdir()
    elsewhere = bench.target.parent / "elsewhere"
    elsewhere.write_bytes(b"sorts between a and a/")
    os.chmod(elsewhere, 0o640)
    os.link(elsewhere, bench.target / "a-")
    bring(bench, record, b"a-")
    assert (mode(elsewhere), os.stat(elsewhere).st_nlink) == (0o640, 1)
    assert snapshot(bench.target)[b"a-"] == snapshot(bench.source)[b"a-"]


def test_a_file_with_its_names_and_another_one_elsewhere_leaves_that_alone(bench: Bench, record: CommitRecord) -> None:
    bring(bench, record)
    elsewhere = bench.target.parent / "elsewhere"
    os.link(bench.target / "a" / "f", elsewhere)
    os.chmod(elsewhere, 0o640)
    bring(bench, record)
    assert (mode(elsewhere), os.stat(elsewhere).st_nlink) == (0o640, 1)
    assert snapshot(bench.target) == snapshot(bench.source)


def test_a_file_that_is_open_elsewhere_keeps_its_old_content_there(bench: Bench, record: CommitRecord) -> None:
    bench.target.mkdir()
    (bench.target / "a-").write_bytes(b"old")
    with (bench.target / "a-").open("rb") as reader:
        bring(bench, record)
        assert reader.read() == b"old"


def test_symlinks_in_the_target_are_replaced_and_never_followed(bench: Bench, record: CommitRecord) -> None:
    outside = bench.target.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "f").write_bytes(b"precious")
    bench.target.mkdir()
    (bench.target / "a").symlink_to(outside)
    (bench.target / "a-").symlink_to(outside / "f")
    before = snapshot(outside)
    bring(bench, record)
    assert snapshot(outside) == before
    assert snapshot(bench.target) == snapshot(bench.source)


def test_a_directory_that_holds_something_stays_and_all_else_is_restored(bench: Bench, record: CommitRecord) -> None:
    (bench.target / "a-").mkdir(parents=True)
    (bench.target / "a-" / "mine").write_bytes(b"precious")
    (bench.target / "b" / "s" / "mine").mkdir(parents=True)
    with pytest.raises(IncompleteRestoreError, match="Directory not empty") as failure:
        bring(bench, record)
    assert [path for path, _ in failure.value.failures] == [b"a-", b"b/s"]
    assert "move that away" in (failure.value.hint or "")
    everything, found = snapshot(bench.source), snapshot(bench.target)
    assert found.items() >= {path: row for path, row in everything.items() if path not in (b"a-", b"b/s")}.items()
    assert (bench.target / "a-" / "mine").read_bytes() == b"precious"


def test_damage_fails_its_own_file_and_links_and_all_else_is_restored(bench: Bench, record: CommitRecord) -> None:
    bad = next(extent for extent in bench.history().tree(record)[b"a/f"].extents if isinstance(extent, Chunk))

    def flip(body: bytearray) -> None:
        body[bad.offset_bytes + 100] ^= 1

    bench.damage(bad.pack, flip)
    with pytest.raises(IncompleteRestoreError, match=r"2 of 4 files were not restored") as failure:
        bring(bench, record)
    assert [path for path, _ in failure.value.failures] == [b"a/f", b"b/f2"]
    error = failure.value.failures[0][1]
    assert isinstance(error, ChunkCorruptError)
    assert all(text in failure.value.fact for text in ("'a/f'", bad.hash.hex(), bad.pack))
    everything, found = snapshot(bench.source), snapshot(bench.target)
    assert found == {path: row for path, row in everything.items() if path not in (b"a/f", b"b/f2")}


def test_damage_leaves_the_old_file_in_place(bench: Bench, record: CommitRecord) -> None:
    bring(bench, record)
    (bench.target / "a-").write_bytes(b"the old one")
    pack = bench.packs()[0]
    bench.damage(pack, lambda body: body.__setitem__(slice(None), b"\0" * len(body)))
    with pytest.raises(IncompleteRestoreError):
        bring(bench, record, b"a-")
    assert (bench.target / "a-").read_bytes() == b"the old one"
    assert sorted(os.listdir(bench.target)) == ["a", "a-", "b"]


def test_a_full_disk_ends_the_restore_with_its_errno_and_leaves_nothing_behind(
    bench: Bench, record: CommitRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(fd: int, data: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left on device") as failure:
        bring(bench, record)
    assert failure.value.errno == 28
    assert str(failure.value.filename).startswith(f"{bench.target}/")
    monkeypatch.undo()
    assert not [name for _, _, files in os.walk(bench.target) for name in files]


@pytest.fixture
def large(bench: Bench) -> CommitRecord:
    """A version with a file of six chunks, a sparse one, and a small one."""
    (bench.source / "a").mkdir()
    (bench.source / "a" / "large").write_bytes(os.urandom(24 * MIB))
    with open(bench.source / "a" / "sparse", "wb") as file:
        file.seek(32 * MIB)
        file.write(os.urandom(5 * MIB))
    (bench.source / "a" / "small").write_bytes(b"small")
    return bench.save()


def interrupted(bench: Bench, record: CommitRecord, at_bytes: int) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= at_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(bench.history(), bench.store, record, bench.target, on_progress=interrupt)


def names_in(target: Path) -> list[str]:
    return sorted(name for _, directories, files in os.walk(target) for name in directories + files)


def test_an_interrupted_restore_goes_on_where_it_was_and_leaves_nothing_behind(
    bench: Bench, large: CommitRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(bench, large, 12 * MIB)
    # what kill -9 leaves, which closes nothing; and two names that are not ours
    (bench.target / ".ckptfs-0123abcd-1.tmp").write_bytes(b"of a small file")
    (bench.target / "a" / ".ckptfs-0123abcd-22.tmp").symlink_to("nowhere")
    (bench.target / "a" / ".ckptfs-mine.tmp").write_bytes(b"mine")
    (bench.target / ".ckptfs-0123abcd-1.tmp.tmp").write_bytes(b"mine")
    pwrite, written = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda *call: written.append(pwrite(*call)) or written[-1])
    progress: list[tuple[int, int]] = []
    restore(bench.history(), bench.store, large, bench.target, on_progress=lambda *row: progress.append(row))
    assert sum(written) <= 29 * MIB + 5 - 12 * MIB
    assert progress[-1] == (29 * MIB + 5, 29 * MIB + 5)
    assert names_in(bench.target) == [".ckptfs-0123abcd-1.tmp.tmp", ".ckptfs-mine.tmp", "a", "large", "small", "sparse"]
    for name in ("large", "small", "sparse"):
        assert (bench.target / "a" / name).read_bytes() == (bench.source / "a" / name).read_bytes()
    assert (bench.target / "a" / "sparse").stat().st_blocks == (bench.source / "a" / "sparse").stat().st_blocks


def test_what_is_left_of_an_interrupted_restore_is_checked_and_goes_if_it_is_of_another_version(
    bench: Bench, large: CommitRecord
) -> None:
    interrupted(bench, large, 12 * MIB)
    (partial,) = (path for path in (bench.target / "a").glob(".ckptfs-*") if path.stat().st_size == 24 * MIB)
    with open(partial, "r+b") as file:
        file.write(b"bent")
    bring(bench, large)
    assert (bench.target / "a" / "large").read_bytes() == (bench.source / "a" / "large").read_bytes()

    (bench.target / "a" / "large").unlink()
    interrupted(bench, large, 20 * MIB)
    (bench.source / "a" / "large").write_bytes(os.urandom(24 * MIB))
    bring(bench, bench.save())
    assert names_in(bench.target) == ["a", "large", "small", "sparse"]
    assert (bench.target / "a" / "large").read_bytes() == (bench.source / "a" / "large").read_bytes()


def test_a_restore_into_the_same_directory_as_another_lets_that_finish(bench: Bench, large: CommitRecord) -> None:
    others: list[Tree] = []

    def begin_another(done: int, total: int) -> None:
        if done >= 8 * MIB and not others:
            others.append({})
            others[0] = bring(bench, large)

    restore(bench.history(), bench.store, large, bench.target, on_progress=begin_another)
    assert others[0]
    assert names_in(bench.target) == ["a", "large", "small", "sparse"]
    assert (bench.target / "a" / "large").read_bytes() == (bench.source / "a" / "large").read_bytes()


@needs_root
def test_a_file_of_somebody_else_with_the_right_bytes_is_replaced(open_directory: Path) -> None:
    (open_directory / "bench").mkdir(mode=0o755)
    bench = Bench(open_directory / "bench")
    (bench.source / "f").write_bytes(b"the same")
    os.utime(bench.source / "f", ns=(1, 1))
    record = bench.save()
    bench.target.mkdir()
    (bench.target / "f").write_bytes(b"the same")
    (bench.target / "f").chmod(0o644)
    os.chown(bench.target, NOBODY, NOBODY)
    as_nobody(lambda: bring(bench, record) and None)
    status = (bench.target / "f").stat()
    assert (status.st_uid, status.st_mtime_ns) == (NOBODY, 1)


def as_nobody(work: Callable[[], None]) -> None:
    """Run something in a child process without privileges; it fails here if it fails there."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            # a process that gave up root must not look at its own /proc otherwise (PR_SET_DUMPABLE)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
            work()
        except BaseException:
            os.write(sender, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as report:
        text = report.read()
    os.waitpid(child, 0)
    assert not text, text


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that another user may reach (pytest's own are closed to others), with a store in it."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        for inner in ("store", "pending"):
            (Path(name) / inner).mkdir()
            os.chmod(Path(name) / inner, 0o777)
        yield Path(name)


@needs_root
def test_a_user_without_privileges_saves_and_restores_files_that_deny_themselves(open_directory: Path) -> None:
    source, target = open_directory / "source", open_directory / "target"

    def work() -> None:
        (source / "d").mkdir(parents=True)
        for name in ("none", "d/read-only"):
            (source / name).write_bytes(name.encode() * 1000)
        os.setxattr(source / "d" / "read-only", "user.x", b"1")
        os.chmod(source / "none", 0)
        os.chmod(source / "d" / "read-only", 0o400)
        pending = capture(source, open_directory / "pending", 1)
        store = FileStore(open_directory / "store")
        writer = acquire(store)
        record = VersionUploader(store, writer, writer.history).upload(pending)
        assert mode(source / "none") == 0
        for _ in range(2):
            # the second time over what is there, which may not be read or entered as it is
            restore(open_history(store), store, record, target)
            assert (mode(target / "none"), mode(target / "d" / "read-only")) == (0, 0o400)
            os.chmod(target / "d", 0)
        restore(open_history(store), store, record, target, [b"d/read-only"])
        assert mode(target / "d") == 0
        os.chmod(target / "d", 0o700)
        os.chmod(target / "d" / "read-only", 0o600)
        os.setxattr(target / "d" / "read-only", "user.x", b"other")
        os.chmod(target / "d" / "read-only", 0o400)
        restore(open_history(store), store, record, target, [b"d/read-only"])
        for name in ("none", "d/read-only"):
            os.chmod(target / name, 0o600)
            assert (target / name).read_bytes() == name.encode() * 1000
        assert os.getxattr(target / "d" / "read-only", "user.x") == b"1"

    as_nobody(work)


@needs_root
def test_a_user_without_privileges_makes_directories_that_deny_themselves(open_directory: Path) -> None:
    entries = [Entry(path=path, kind=Kind.DIRECTORY, mode=0, mtime_ns=5) for path in (b"", b"x", b"x/y", b"x/y/z")]

    def work() -> None:
        (open_directory / "target").mkdir()
        for _ in range(2):
            materialize({entry.path: entry for entry in entries}, open_directory / "target", placeholder=True)

    as_nobody(work)
    for path in ("", "x", "x/y", "x/y/z"):
        status = os.stat(open_directory / "target" / path)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0, 5)


@needs_root
def test_a_user_without_privileges_gets_no_setuid_file_of_another_owner_and_no_device(
    bench: Bench, open_directory: Path
) -> None:
    (bench.source / "tool").write_bytes(b"x")
    os.chmod(bench.source / "tool", 0o4755)
    os.mknod(bench.source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    record = bench.save()

    as_nobody(lambda: bring(bench, record, target=open_directory / "target") and None)
    status = os.stat(open_directory / "target" / "tool")
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, 0o755)
    assert os.listdir(open_directory / "target") == ["tool"]


def test_a_version_that_is_pruned_while_it_is_restored_is_said_to_be(bench: Bench, record: CommitRecord) -> None:
    bench.save()
    del bench.store.objects[bench.packs()[0]]
    with pytest.raises(IncompleteRestoreError, match="is missing"):
        bring(bench, record)
    collect(bench.store, dropped=[(1, 1)])
    with pytest.raises(NoSuchVersionError, match=r"version 1 .* was pruned while it was read"):
        bring(bench, record)
