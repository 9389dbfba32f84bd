"""What a file store says when its directory is missing, full, read-only, forbidden, or no directory."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfs.errors import (
    NotFoundError,
    StoreAccessError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from ckptfs.store import atomic
from ckptfs.store.base import Store
from ckptfs.store.file import FileStore

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach (tmp_path is below one that only its owner can)."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """No longer root, whom permissions do not stop."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.rglob("*"))


def test_a_missing_directory_is_missing_unless_it_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="none"):
        FileStore(tmp_path / "none" / "deeper")
    assert names(tmp_path) == []
    FileStore(tmp_path / "none" / "deeper", create=True).put("p/one", b"")
    assert FileStore(tmp_path / "none" / "deeper").get("p/one") == b""


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreMissingError, match="file"):
            FileStore(path, create=create)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_store_that_is_taken_away_is_missing_and_is_not_made_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store", create=True)
    store.put("p/one", b"")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for request in (
        lambda: store.get("p/one"),
        lambda: store.put("p/two", b""),
        lambda: store.put("lease", b""),
        lambda: store.create("c/1", b""),
        lambda: next(store.list("p/")),
        lambda: store.delete("p/one"),
    ):
        with pytest.raises(StoreMissingError, match="cannot be used"):
            request()
    assert not (tmp_path / "store").exists()


def test_a_store_that_is_taken_away_just_before_it_is_written_to_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "store", create=True)
    find = FileStore._require_root

    def find_then_lose(store: FileStore) -> int:
        mode = find(store)
        (tmp_path / "store").rmdir()
        return mode

    monkeypatch.setattr(FileStore, "_require_root", find_then_lose)
    with pytest.raises(StoreMissingError):
        store.put("p/deep/pack", b"x")
    assert not (tmp_path / "store").exists()


def test_the_mount_point_of_a_store_that_is_not_mounted_is_not_the_store(tmp_path: Path) -> None:
    root, away = tmp_path / "store", tmp_path / "elsewhere"
    store = FileStore(root, create=True)
    store.create("format.json", b"{}")
    store.put("p/one", b"1")
    root.rename(away)
    root.mkdir()
    for request in (
        lambda: store.get("p/one"),
        lambda: store.put("p/two", b""),
        lambda: store.create("c/1", b""),
        lambda: list(store.list("p/")),
        lambda: store.delete("p/one"),
    ):
        with pytest.raises(StoreMissingError, match="another directory is in its place"):
            request()
    assert not list(root.iterdir())
    # what is mounted there next is the store if it says so
    (root / "format.json").write_bytes(b"{other}")
    with pytest.raises(StoreMissingError, match="another store is in its place"):
        store.create("c/1", b"")
    shutil.copytree(away, root, dirs_exist_ok=True)
    store.create("c/1", b"2")
    assert (store.get("p/one"), store.get("c/1")) == (b"1", b"2")
    assert [found.key for found in store.list("")] == ["c/1", "format.json", "p/one"]


def test_whether_an_object_was_written_while_its_filesystem_went_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "store", create=True)
    store.create("format.json", b"{}")
    link = atomic.link

    def link_and_lose(temporary: str, path: str) -> None:
        link(temporary, path)
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        shutil.copytree(tmp_path / "elsewhere" / "c", tmp_path / "store" / "c")

    monkeypatch.setattr(atomic, "link", link_and_lose)
    with pytest.raises(StoreUnavailableError, match=r"cannot tell whether .* was written"):
        store.create("c/1", b"")


@needs_root
def test_a_full_disk_is_unavailable_and_leaves_nothing_behind(small_disk: Path) -> None:
    store = FileStore(small_disk)
    store.put("p/one", b"x" * 500_000)
    for write in (store.put, store.create):
        with pytest.raises(StoreUnavailableError, match="No space left") as caught:
            write("p/two", b"x" * 900_000)
        assert "free space" in str(caught.value.hint)
        assert names(small_disk) == ["one", "p"]
    with pytest.raises(StoreUnavailableError):
        store.put("p/one", b"x" * 900_000)
    assert store.get("p/one") == b"x" * 500_000
    store.delete("p/one")
    store.create("p/two", b"x" * 900_000)
    assert store.get("p/two") == b"x" * 900_000


@needs_root
def test_a_filesystem_mounted_read_only_is_an_access_error(small_disk: Path) -> None:
    store = FileStore(small_disk)
    store.put("p/one", b"some bytes")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for change in (
        lambda: store.put("p/two", b""),
        lambda: store.create("c/1", b""),
        lambda: store.delete("p/one"),
        lambda: FileStore(small_disk / "new", create=True),
    ):
        with pytest.raises(StoreAccessError) as caught:
            change()
        assert "read-only" in str(caught.value.hint)
    assert store.get("p/one") == b"some bytes"


def test_a_directory_of_somebody_else_is_an_access_error(open_directory: Path, as_nobody: None) -> None:
    with pytest.raises(StoreAccessError):
        FileStore(Path("/root/ckptfs") if os.getuid() == 0 else open_directory / "new", create=True)


def test_a_store_of_somebody_else_can_be_read_but_not_changed(
    open_directory: Path, request: pytest.FixtureRequest
) -> None:
    FileStore(open_directory).put("p/one", b"some bytes")
    for directory in (open_directory, open_directory / "p"):
        directory.chmod(0o555)
    request.addfinalizer(lambda: (open_directory / "p").chmod(0o755))
    request.addfinalizer(lambda: open_directory.chmod(0o755))
    request.getfixturevalue("as_nobody")
    store = FileStore(open_directory)
    assert store.get("p/one") == b"some bytes"
    for change in (
        lambda: store.put("p/two", b""),
        lambda: store.create("c/1", b""),
        lambda: store.delete("p/one"),
    ):
        with pytest.raises(StoreAccessError) as caught:
            change()
        assert f"uid {os.geteuid()}" in str(caught.value.hint)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EDQUOT])
def test_an_ill_filesystem_is_unavailable(
    file_store: Store, monkeypatch: pytest.MonkeyPatch, number: int, tmp_path: Path
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreUnavailableError, match=r"p/one"):
        file_store.put("p/one", b"some bytes")
    monkeypatch.undo()
    assert list(file_store.list("")) == []
    assert names(tmp_path) == ["p", "store"] or names(tmp_path) == ["store"]


def test_a_file_that_was_replaced_on_its_server_meanwhile_is_opened_again(
    file_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_store.put("lease", b"some bytes")
    pread, stale = os.pread, [True, True]

    def fail_twice(descriptor: int, count: int, offset: int) -> bytes:
        if stale:
            stale.pop()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", fail_twice)
    assert file_store.get("lease") == b"some bytes"
    stale.extend([True] * 3)
    with pytest.raises(StoreUnavailableError):
        file_store.get("lease")


@pytest.mark.parametrize(
    "key", ["", "/", "../outside", "p/../../outside", "/etc/passwd", "p//one", "p/", "./p", "p/.hidden", "a\0b"]
)
def test_a_key_cannot_lead_out_of_the_store_or_to_a_hidden_file(file_store: Store, tmp_path: Path, key: str) -> None:
    (tmp_path / "outside").write_bytes(b"not an object")
    for request in (
        lambda: file_store.get(key),
        lambda: file_store.put(key, b""),
        lambda: file_store.create(key, b""),
        lambda: file_store.delete(key),
    ):
        with pytest.raises(StoreError, match="not a key"):
            request()
    assert (tmp_path / "outside").read_bytes() == b"not an object"


def test_a_key_below_an_object_is_an_error_and_not_found(file_store: Store) -> None:
    file_store.put("p", b"an object")
    with pytest.raises(NotFoundError):
        file_store.get("p/one")
    file_store.delete("p/one")
    with pytest.raises(StoreError):
        file_store.put("p/one", b"")
    with pytest.raises(StoreError):
        file_store.put("p" * 300, b"")
    assert file_store.get("p") == b"an object"


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_an_object_is_not_waited_for(file_store: Store, tmp_path: Path) -> None:
    file_store.put("p/one", b"")
    os.mkfifo(tmp_path / "store" / "lease")
    with pytest.raises(NotFoundError):
        file_store.get("lease")
    with pytest.raises(NotFoundError):
        file_store.get_range("lease", 0, 1)
    file_store.put("lease", b"lease")
    assert file_store.get("lease") == b"lease"


def test_what_is_no_object_is_not_listed(file_store: Store, tmp_path: Path) -> None:
    file_store.put("p/one", b"")
    root = tmp_path / "store"
    (root / ".snapshot").mkdir()
    (root / ".snapshot" / "p").write_bytes(b"")
    (root / "p" / ".nfs0001").write_bytes(b"")
    (root / "p" / "empty").mkdir()
    os.mkfifo(root / "p" / "pipe")
    (root / "p" / "dangling").symlink_to("nowhere")
    assert [row.key for row in file_store.list("")] == ["p/one"]


def test_the_first_of_ten_thousand_keys_is_found_without_looking_at_each(
    file_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store" / "c").mkdir()
    for number in range(10_000):
        (tmp_path / "store" / "c" / f"{number:020d}").touch()
    looked_at: list[str] = []
    real_stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kwargs: (looked_at.append(str(path)), real_stat(path, **kwargs))[1])
    assert [row.key for row in file_store.list("c/", limit=1)] == [f"c/{0:020d}"]
    # the store's directory and the file
    assert len(looked_at) == 2
