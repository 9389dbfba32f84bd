"""Files that appear whole or not at all, also when the filesystem lies, lacks links, or the writer is killed."""

import errno
import os
import time
from pathlib import Path

import pytest

from ckptfs.errors import AlreadyExistsError, StoreUnavailableError, UnsafeStoreError
from ckptfs.store import atomic
from ckptfs.store.file import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def fail_link(monkeypatch: pytest.MonkeyPatch, number: int, *, after_linking: bool) -> None:
    link = os.link

    def fail(source: str, target: str) -> None:
        if after_linking:
            link(source, target)
        raise OSError(number, os.strerror(number), target)

    monkeypatch.setattr(os, "link", fail)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT])
def test_a_link_whose_reply_was_lost_is_a_success(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_link(monkeypatch, number, after_linking=True)
    store.create("c/1", b"mine")
    assert store.get("c/1") == b"mine"


def test_a_link_that_failed_for_an_unknown_reason_is_not_a_success(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_link(monkeypatch, errno.EIO, after_linking=False)
    with pytest.raises(StoreUnavailableError):
        store.create("c/1", b"mine")
    assert list(tmp_path.rglob("*")) == [tmp_path / "c"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_shared_filesystem_without_links_is_refused(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(atomic, "_filesystem_type", lambda path: "cifs")
    fail_link(monkeypatch, number, after_linking=False)
    with pytest.raises(UnsafeStoreError, match="hard links") as caught:
        store.create("c/1", b"mine")
    assert "s3://" in str(caught.value.hint)
    assert list(tmp_path.rglob("*")) == [tmp_path / "c"]


def test_a_local_filesystem_without_links_creates_by_a_rename_that_replaces_nothing(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_filesystem_type", lambda path: "vfat")
    fail_link(monkeypatch, errno.EPERM, after_linking=False)
    store.create("c/1", b"mine")
    with pytest.raises(AlreadyExistsError):
        store.create("c/1", b"theirs")
    assert store.get("c/1") == b"mine"
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "c", tmp_path / "c" / "1"]


def test_the_filesystem_type_is_that_of_the_path() -> None:
    assert atomic._filesystem_type("/proc") == "proc"
    assert atomic._filesystem_type("/proc/self/fd") == "proc"


def test_what_a_killed_writer_left_is_never_an_object_and_is_swept_up_in_a_day(tmp_path: Path) -> None:
    directory = tmp_path / "p"
    directory.mkdir()
    # as a writer leaves it that is killed between these two lines
    old = Path(atomic.write_temporary(str(directory), [b"left"], 0o600))
    new = Path(atomic.write_temporary(str(directory), [b"being written"], 0o600))
    linked = Path(atomic.write_temporary(str(directory), [b"an object"], 0o600))
    atomic.link(str(linked), str(directory / "linked"))
    two_days_ago_s = time.time() - 2 * 86400
    for path in (old, linked):
        os.utime(path, (two_days_ago_s, two_days_ago_s))
    store = FileStore(tmp_path)
    assert [row.key for row in store.list("")] == ["p/linked"]
    store.put("p/one", b"")
    assert not old.exists()
    assert not linked.exists()
    assert new.exists()
    assert [row.key for row in store.list("")] == ["p/linked", "p/one"]
    assert store.get("p/linked") == b"an object"


def test_an_object_and_its_name_are_synced_before_it_is_reported_as_stored(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store.create("c/1", b"mine")
    made, file, named = synced
    assert made == str(tmp_path)
    assert os.path.basename(file).startswith(".ckptfs-tmp-")
    assert named == str(tmp_path / "c")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_filesystem_that_syncs_no_directories_will_do(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    store.create("c/1", b"mine")
    assert store.get("c/1") == b"mine"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_objects_have_the_permissions_of_their_store_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    shared, common = tmp_path / "shared", tmp_path / "common"
    for path, mode in ((shared, 0o2770), (common, 0o1777)):
        path.mkdir()
        path.chmod(mode)
    before = os.umask(umask)
    try:
        for path in (shared, common, tmp_path / "new" / "made"):
            FileStore(path, create=True).put("p/one", b"")
    finally:
        os.umask(before)
    assert modes(shared / "p" / "one") == (0o2770, 0o2770, 0o660)
    assert modes(common / "p" / "one") == (0o1777, 0o775, 0o664)
    assert modes(tmp_path / "new" / "made" / "p" / "one") == (0o700, 0o700, 0o600)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o700


def modes(path: Path) -> tuple[int, ...]:
    """Return the permissions of an object, and before it those of the two directories above."""
    return tuple(each.stat().st_mode & 0o7777 for each in (path.parent.parent, path.parent, path))
