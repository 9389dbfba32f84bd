"""Reading captured files: exactly the captured bytes and holes, whatever happens to the file (data_file.py D1)."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.transfer.data_file import DataFile, PendingDataError
from ckptfs.transfer.encoding import SlotPool

PAGE = 4096
CHUNK = 16 * PAGE


def read(
    path: Path, size: int, on_extent: Callable[[int], None] = lambda offset: None
) -> list[tuple[int, bytes | None]]:
    """Return the extents of a file: size, and bytes unless it is a hole."""
    # a single slot: one that is not given back would make the test hang
    slots = SlotPool(1, CHUNK)
    found: list[tuple[int, bytes | None]] = []
    offset = 0
    with DataFile(path, size) as file:
        for length, slot in file.extents(slots):
            found.append((length, None if slot is None else bytes(slot.plain[:length])))
            if slot is not None:
                slots.give(slot)
            offset += length
            on_extent(offset)
    assert sum(length for length, _ in found) == size
    slots.take()
    return found


def content(extents: list[tuple[int, bytes | None]]) -> bytes:
    return b"".join(bytes(size) if data is None else data for size, data in extents)


def sparse(path: Path, *data: tuple[int, bytes], size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, piece in data:
            file.seek(offset)
            file.write(piece)


def test_data_are_cut_at_multiples_of_the_chunk_size_and_holes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "f"
    sparse(path, (3 * PAGE, b"a" * (CHUNK + 5)), (8 * CHUNK, b"b" * PAGE), size=10 * CHUNK + 1)
    sizes = [(size, data is None) for size, data in read(path, 10 * CHUNK + 1)]
    assert sizes == [
        (3 * PAGE, True),
        (CHUNK - 3 * PAGE, False),
        (4 * PAGE, False),
        (7 * CHUNK - 4 * PAGE, True),
        (PAGE, False),
        (2 * CHUNK - PAGE + 1, True),
    ]
    assert content(read(path, 10 * CHUNK + 1)) == path.read_bytes()


def test_a_file_that_is_one_hole_is_one_hole(tmp_path: Path) -> None:
    sparse(tmp_path / "f", size=1 << 40)
    assert read(tmp_path / "f", 1 << 40) == [(1 << 40, None)]


def test_only_the_captured_size_is_read_of_a_file_that_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 1000 + b"b" * 100000)
    assert read(path, 1000) == [(1000, b"a" * 1000)]


def test_a_filesystem_without_holes_gives_all_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    sparse(path, (CHUNK, b"a" * 10), size=3 * CHUNK)

    def lseek(fd: int, offset: int, whence: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", lseek)
    extents = read(path, 3 * CHUNK)
    assert [size for size, _ in extents] == [CHUNK] * 3
    assert all(piece is not None for _, piece in extents)
    assert content(extents) == path.read_bytes()


def test_a_file_replaced_between_two_extents_is_read_on_from_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(4 * CHUNK))
    captured = path.read_bytes()

    def replace(offset: int) -> None:
        if offset == 2 * CHUNK:
            # what the mount process does: a private copy first, then the live file changes
            live = path.open("r+b")
            (tmp_path / "copy").write_bytes(captured)
            (tmp_path / "copy").rename(path)
            with live:
                live.write(b"x" * (4 * CHUNK))

    assert content(read(path, 4 * CHUNK, replace)) == captured


@pytest.mark.parametrize("moment", ["before the read", "after the read"])
def test_a_file_replaced_during_a_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(3 * CHUNK))
    captured = path.read_bytes()
    reads = []
    real = os.preadv

    def replace_and_change() -> None:
        with path.open("r+b") as live:
            (tmp_path / "copy").write_bytes(captured)
            (tmp_path / "copy").rename(path)
            live.write(b"x" * (3 * CHUNK))

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        if len(reads) == 2 and moment == "before the read":
            replace_and_change()
        size = real(fd, buffers, offset)
        if len(reads) == 2 and moment == "after the read":
            replace_and_change()
        return size

    monkeypatch.setattr(os, "preadv", preadv)
    assert content(read(path, 3 * CHUNK)) == captured
    assert reads == [0, CHUNK, CHUNK, 2 * CHUNK]


def test_a_hole_that_appears_in_a_file_while_it_is_being_replaced_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(3 * CHUNK))
    captured = path.read_bytes()
    real = os.lseek
    looked = []

    def lseek(fd: int, offset: int, whence: int) -> int:
        if not looked:
            looked.append(offset)
            with path.open("r+b") as live:
                (tmp_path / "copy").write_bytes(captured)
                (tmp_path / "copy").rename(path)
                live.truncate(0)
                live.truncate(3 * CHUNK)
        return real(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    assert content(read(path, 3 * CHUNK)) == captured
    assert looked


def test_a_file_that_is_too_short_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 10)
    with pytest.raises(PendingDataError, match=r"f has 10 bytes, expected at least 11"):
        read(path, 11)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 3 * CHUNK)
    with pytest.raises(PendingDataError, match="expected at least"):
        read(path, 3 * CHUNK, lambda offset: os.truncate(path, CHUNK + 1))


def test_a_file_that_shrinks_where_a_hole_was_expected_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    sparse(path, (0, b"a" * PAGE), size=10 * CHUNK)
    with pytest.raises(PendingDataError, match="expected at least"):
        read(path, 10 * CHUNK, lambda offset: os.truncate(path, 5 * CHUNK))


def test_a_private_copy_with_a_hole_where_there_were_zeros_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(CHUNK))
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        sparse(tmp_path / "copy", size=CHUNK)
        (tmp_path / "copy").rename(path)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert read(path, CHUNK) == [(CHUNK, None)]


def test_a_file_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PendingDataError, match=r"f cannot be read: No such file"):
        read(tmp_path / "f", 1)


def test_a_disk_that_cannot_read_a_file_any_more_is_an_error_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a")

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(PendingDataError, match=r"f cannot be read: Input/output error"):
        read(path, 1)


def test_a_lack_of_descriptors_is_not_blamed_on_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a")

    def failing_open(*arguments: object, **options: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", failing_open)
    with pytest.raises(OSError, match="Too many open files"):
        DataFile(path, 1)
