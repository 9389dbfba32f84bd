"""What somebody who can write to a store makes of it: refused in bounded time and memory, and nothing outside the
target is touched."""

import fcntl
import os
import tempfile
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfs.cache.directory import lock_is_free
from ckptfs.cli.failures import report
from ckptfs.errors import CorruptObjectError, HeldError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.commit_bytes import encode_commit
from ckptfs.format.keys import COMMIT_PREFIX, FORMAT_KEY, LEASE_KEY, commit_key
from ckptfs.format.manifest import Entry, Hole, Kind, Tree
from ckptfs.store.open import open_store
from ckptfs.transfer.restore import IncompleteRestoreError, restore
from ckptfs.transfer.verify import verify
from ckptfs.versions.history import History, open_history
from ckptfs.versions.writer import Writer
from tests.versions.memory_store import MemoryStore
from tests.versions.scene import FakeClock, acquire, directory, draft, holder, save, tree_of


def store_of(*entries: Entry) -> tuple[History, CommitRecord]:
    store = MemoryStore()
    others = (entry for entry in entries if entry.path)
    record = acquire(store).commit_save(draft(1, tree=tree_of(directory(), *others)))
    return open_history(store), record


def file(path: bytes, size_bytes: int = 10) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=0o644, size_bytes=size_bytes, extents=(Hole(size_bytes),))


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o777, size_bytes=len(target), target=target)


def test_a_file_that_the_target_cannot_hold_fails_alone(tmp_path: Path) -> None:
    entries = [file(b"a"), file(b"huge", (1 << 63) - 1), file(b"z"), replace(file(b"huge-2", (1 << 63) - 1), link_id=7)]
    history, record = store_of(*entries, replace(entries[3], path=b"huge-3"))
    with pytest.raises(IncompleteRestoreError) as caught:
        restore(history, history.store, record, tmp_path / "target")
    assert [path for path, _ in caught.value.failures] == [b"huge", b"huge-2", b"huge-3"]
    assert "cannot be in the target" in caught.value.fact
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["a", "z"]


def test_symlinks_to_everywhere_are_made_and_nothing_is_written_through_them(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    history, record = store_of(
        link(b"absolute", bytes(outside)), link(b"up", b"../outside"), link(b"to-file", bytes(outside / "file"))
    )
    target = tmp_path / "target"
    restore(history, history.store, record, target)
    # a later version has a directory and a file where the links are
    later, newer = store_of(
        replace(directory("absolute"), mode=0o777),
        file(b"absolute/file"),
        directory("up"),
        file(b"up/new"),
        file(b"to-file"),
    )
    restore(later, later.store, newer, target)
    assert (outside / "file").read_text() == "theirs"
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert outside.stat().st_mode & 0o777 != 0o777
    assert (target / "absolute" / "file").read_bytes() == bytes(10)


NAMES = st.sampled_from([b"a", b"b", b"a/a", b"a/b", b"b/a", b"a/a/a"])
WHATS = st.sampled_from(["file", "directory", "absolute", "up", "up-file", "self", "sibling"])


def hostile_tree(whats: dict[bytes, str], outside: Path) -> Tree:
    """A tree with symlinks wherever they can be, to what lies outside and inside."""
    targets = {
        "absolute": bytes(outside),
        "up": b"../" * 4 + bytes(outside).lstrip(b"/"),
        "up-file": bytes(outside / "file"),
        "self": b".",
        "sibling": b"../b",
    }
    tree = {b"": directory()}
    for path in sorted(whats):
        above = tree.get(path.rpartition(b"/")[0])
        if above is None or above.kind is not Kind.DIRECTORY:
            continue
        what = whats[path]
        if what == "directory":
            tree[path] = Entry(path=path, kind=Kind.DIRECTORY, mode=0o777, mtime_ns=1)
        else:
            tree[path] = file(path) if what == "file" else link(path, targets[what])
    return tree


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(NAMES, WHATS, min_size=1), min_size=2, max_size=3))
def test_no_pair_of_trees_writes_outside_the_target(tmp_path: Path, trees: list[dict[bytes, str]]) -> None:
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    outside, target = place / "outside", place / "target"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("theirs")
    before = (outside.stat(), (outside / "file").stat())
    for whats in trees:
        history, record = store_of(*hostile_tree(whats, outside).values())
        # a directory that holds something is not replaced by anything else
        with suppress(OSError, IncompleteRestoreError):
            restore(history, history.store, record, target)
    assert (outside.stat(), (outside / "file").stat()) == before
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert sorted(path.name for path in place.iterdir()) == ["outside", "target"]


def test_one_planted_record_of_the_highest_number_ends_no_command_and_takes_no_memory() -> None:
    store = MemoryStore()
    save(acquire(store), 3)
    planted = replace(open_history(store).record(2), seq=(1 << 63) - 2, parent=(1 << 63) - 3, head=(1 << 63) - 2)
    history = open_history(store)
    inline = history._read(2)[1]
    store.objects[commit_key(planted.seq)] = encode_commit(planted, inline)
    findings = verify(open_history(store), store)
    assert any("are missing" in finding.fact for finding in findings)
    assert len(findings) < 1000
    with pytest.raises(CorruptObjectError, match="is missing"):
        list(open_history(store).versions())
    assert open_history(store).numbers() == [1]
    many = replace(planted, version=1 << 62)
    store.objects[commit_key(planted.seq)] = encode_commit(many, inline)
    with pytest.raises(CorruptObjectError, match="says that there are 4611686018427387904 versions"):
        open_history(store).numbers()


@pytest.mark.parametrize("key", [FORMAT_KEY, LEASE_KEY, "newest"])
def test_an_object_of_a_gigantic_size_is_not_read(tmp_path: Path, key: str) -> None:
    store = open_store(f"file://{tmp_path}/store", create=True)
    save(acquire(store))
    name = next(iter(store.list(COMMIT_PREFIX, limit=1))).key if key == "newest" else key
    with (tmp_path / "store" / name).open("r+b") as body:
        body.truncate(1 << 40)
    tracemalloc.start()
    try:
        if key == LEASE_KEY:
            # damaged is as good as missing: a writer is watched for, and taken over
            acquire(store, "gpu-08")
        else:
            with pytest.raises(CorruptObjectError, match="has 1099511627776 bytes"):
                open_history(store).newest()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lock", ["/dev/zero", "a\0b", "\ud800", "/", "/nonexistent", "x" * 5000])
def test_a_lease_that_names_anything_but_a_lock_file_has_nothing_opened(lock: str) -> None:
    try:
        status = os.stat(lock)
        lock_id = f"{status.st_dev}:{status.st_ino}"
    except (OSError, ValueError):
        lock_id = "8:1"
    assert not lock_is_free(lock, lock_id)


def test_a_lock_file_that_nobody_holds_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("4121")
    status = lock.stat()
    assert lock_is_free(str(lock), f"{status.st_dev}:{status.st_ino}")
    assert not lock_is_free(str(lock), f"{status.st_dev}:{status.st_ino + 1}")
    (tmp_path / "link").symlink_to(lock)
    assert not lock_is_free(str(tmp_path / "link"), f"{status.st_dev}:{status.st_ino}")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not lock_is_free(str(lock), f"{status.st_dev}:{status.st_ino}")


def test_a_host_name_from_the_store_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore()
    acquire(store, "gpu\x1b[2J\x07\n  hint: run this\u202e")
    time = FakeClock()
    with pytest.raises(HeldError) as caught:
        Writer.acquire(store, holder("b"), holder_is_alive=lambda _: True, clock=time.clock, sleep=time.sleep)
    report(caught.value, verbose=False)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 2
    assert all(character.isprintable() for line in said.splitlines() for character in line)
