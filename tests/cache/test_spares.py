"""Spares: made ahead, taken once, and no condition of anything."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptfs.cache.spares import Spares
from tests.mounting import wait_until


@contextmanager
def filling(spares: Spares) -> Iterator[None]:
    thread = threading.Thread(target=spares.run)
    thread.start()
    try:
        yield
    finally:
        spares.stop()
        thread.join(20)
        assert not thread.is_alive()


def there(root: Path) -> list[str]:
    return sorted(name.split("-")[0] for name in os.listdir(root))


def test_what_is_taken_was_made_ahead_and_is_made_again(tmp_path: Path) -> None:
    spares = Spares(tmp_path)
    full = ["draft", "file", "file", "file", "file"]
    spares.fill()
    assert there(tmp_path) == full
    names = set(os.listdir(tmp_path))
    taken = [spares.take_file(), spares.take_draft()]
    assert {path.name for path in taken} <= names
    for path in taken:
        path.rename(tmp_path.parent / path.name)
    with filling(spares):
        wait_until(lambda: there(tmp_path) == full, 20, "they are made again")


def test_with_none_left_it_is_made_at_once_and_nothing_is_given_twice(tmp_path: Path) -> None:
    spares = Spares(tmp_path)
    files, drafts = [spares.take_file() for _ in range(9)], [spares.take_draft() for _ in range(3)]
    assert len({*files, *drafts}) == 12
    for path in files:
        status = path.stat()
        assert (status.st_size, stat.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode)) == (0, True, 0o600)
    for path in drafts:
        assert sorted(os.listdir(path)) == ["data", "manifest", "seal", "version.json"]
        assert {stat.S_IMODE(below.stat().st_mode) for below in (path, path / "data")} == {0o700}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = Spares(tmp_path)
    left.take_file()
    (left.take_draft() / "data" / "0").write_bytes(b"half")
    Spares(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_is_told_to_who_takes_one_and_filled_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spares, real, is_full = Spares(tmp_path), os.mkdir, threading.Event()

    def mkdir(path: Path, *rest: int) -> None:
        # the last inode has gone to the directory that this one is to be in
        if is_full.is_set() and path.name == "data":
            raise OSError(28, "No space left on device", os.fspath(path))
        real(path, *rest)

    monkeypatch.setattr(os, "mkdir", mkdir)
    is_full.set()
    with filling(spares):
        wait_until(lambda: there(tmp_path) == ["file"] * 4, 20, "there are files")
        with pytest.raises(OSError, match="No space left"):
            spares.take_draft()
        # nothing that was begun keeps what little room there is
        wait_until(lambda: there(tmp_path) == ["file"] * 4, 20, "there are files alone")
        is_full.clear()
        spares.refill()
        wait_until(lambda: "draft" in there(tmp_path), 20, "there is a draft")
