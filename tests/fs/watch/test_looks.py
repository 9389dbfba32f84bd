"""When a path counts as unchanged: only if it could not have changed without looking different."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfs.format.manifest import Entry, Kind
from ckptfs.fs.watch.becoming import untouched
from ckptfs.fs.watch.looks import Looks, look_around


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "directory").mkdir()
    time.sleep(0.03)  # the clock of ctimes has gone on since
    return tmp_path


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY)
    yield fd
    os.close(fd)


def clock_ns(root: Path) -> int:
    """The filesystem's own clock."""
    (root / ".save").write_bytes(b"")
    return (root / ".save").stat().st_ctime_ns


def known(root: Path, root_fd: int, now_ns: int) -> Looks:
    """Looks of a directory that is all as the newest version has it."""
    looks, found = Looks(), look_around(root_fd)
    looks.start(root_fd, found, list(found), now_ns)
    return looks


def test_what_was_not_touched_is_unchanged_and_control_files_are_none_of_it(root: Path, root_fd: int) -> None:
    looks = known(root, root_fd, clock_ns(root))
    (root / ".save").write_bytes(b"more")
    (root / "directory/.save").write_bytes(b"")
    (root / ".status").write_bytes(b"{}")
    (root / ".ckptfs-0123abcd-1.tmp").write_bytes(b"")
    os.utime(root / "directory", ns=(0, (root / "directory").stat().st_mtime_ns))
    assert looks.changed(look_around(root_fd), [b"", b"file", b"directory", b"gone"]) == [b"directory", b"gone"]


def test_a_file_that_could_change_in_the_same_tick_is_looked_at_again(root: Path, root_fd: int) -> None:
    now_ns = clock_ns(root)
    (root / "file").write_bytes(b"another")
    looks = known(root, root_fd, min(now_ns, (root / "file").stat().st_ctime_ns))
    assert looks.changed(look_around(root_fd), []) == [b"file"]


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
def test_a_file_that_somebody_has_open_is_looked_at_again(root: Path, root_fd: int, flags: int) -> None:
    fd = os.open(root / "file", flags)
    looks = known(root, root_fd, clock_ns(root))
    os.close(fd)
    assert looks.changed(look_around(root_fd), []) == [b"file"]


def test_what_is_written_to_after_a_restore_is_not_taken_for_restored(root: Path, root_fd: int) -> None:
    status = (root / "file").stat()
    entry = Entry(path=b"file", kind=Kind.FILE, mode=0o644, size_bytes=7, mtime_ns=status.st_mtime_ns)
    assert untouched({b"file": entry}, look_around(root_fd)) == [b"file"]
    (root / "file").write_bytes(b"changed")
    assert untouched({b"file": entry}, look_around(root_fd)) == []


def test_what_a_version_has_not_although_it_is_here_is_looked_at_again(root: Path, root_fd: int) -> None:
    (root / "directory/inside").write_bytes(b"content")
    time.sleep(0.03)
    now_ns = clock_ns(root)
    looks, found = known(root, root_fd, now_ns), look_around(root_fd)
    taken = {found[b"directory"].st_ino: found[b"directory"]}
    looks.captured(root_fd, [b"directory"], found, taken, {b"directory", b"directory/inside"}, now_ns)
    assert looks.changed(look_around(root_fd), []) == [b"directory", b"directory/inside"]
