"""Ways of changing a file, each as a function of its path: whatever a program does after a touch must not reach the
version that the touch made.
"""

import ctypes
import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

SIZE_BYTES = 200_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16

CHANGES: dict[str, Callable[[Path], None]] = {}


def change(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CHANGES[function.__name__.replace("_", " ")] = function
    return function


def _allocate(path: Path, mode: int, offset: int, size: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        if _libc.fallocate(fd, mode, offset, size) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(fd)


def _write(path: Path, flags: int, data: bytes, offset: int) -> None:
    fd = os.open(path, flags)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


@change
def rewritten_in_place(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"new" * 1000)


@change
def written_near_the_end(path: Path) -> None:
    _write(path, os.O_WRONLY, b"new", SIZE_BYTES - 10)


@change
def truncated_at_open_and_rewritten(path: Path) -> None:
    path.write_bytes(b"new" * 10)


@change
def truncated_at_open_and_made_larger(path: Path) -> None:
    path.write_bytes(b"new" * SIZE_BYTES)


@change
def appended_to(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"new" * 1000)


@change
def appended_to_then_rewritten(path: Path) -> None:
    appended_to(path)
    rewritten_in_place(path)


@change
def truncated_by_name(path: Path) -> None:
    os.truncate(path, 100)


@change
def truncated_to_nothing_by_name(path: Path) -> None:
    os.truncate(path, 0)


@change
def truncated_and_extended_again(path: Path) -> None:
    os.truncate(path, 100)
    os.truncate(path, SIZE_BYTES)


@change
def extended(path: Path) -> None:
    os.truncate(path, 3 * SIZE_BYTES)


@change
def punched(path: Path) -> None:
    _allocate(path, _PUNCH_HOLE | _KEEP_SIZE, 8192, 50_000)


@change
def zeroed(path: Path) -> None:
    _allocate(path, _ZERO_RANGE, 8192, 50_000)


@change
def allocated_beyond_the_end(path: Path) -> None:
    _allocate(path, 0, SIZE_BYTES, SIZE_BYTES)


@change
def stored_to_through_a_mapping(path: Path) -> None:
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    mapping[5000:5003] = b"new"
    mapping.flush()
    mapping.close()


@change
def stored_to_through_a_mapping_that_is_not_flushed(path: Path) -> None:
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    mapping[5000:5003] = b"new"
    mapping.close()


@change
def written_past_the_page_cache(path: Path) -> None:
    page = mmap.mmap(-1, 4096)
    page.write(b"new" * 1365)
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        os.pwrite(fd, page, 8192)
    finally:
        os.close(fd)


@change
def copied_into_by_the_kernel(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"new" * 1000)
    with open(other, "rb") as source, open(path, "r+b") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 3000, 0, 7000)


@change
def copied_over_by_cp(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"new" * 1000)
    subprocess.run(["cp", other, path], check=True, timeout=30)


@change
def replaced_by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"new" * 1000)
    other.rename(path)


@change
def replaced_by_rename_while_open(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"new" * 1000)
    with open(path, "r+b", buffering=0) as file:
        other.rename(path)
        file.write(b"into the old one")


@change
def unlinked(path: Path) -> None:
    path.unlink()


@change
def unlinked_while_open_then_written(path: Path) -> None:
    with open(path, "r+b", buffering=0) as file:
        path.unlink()
        file.write(b"new" * 1000)
        file.truncate(10)


@change
def unlinked_and_made_anew(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"new" * 100_000)


@change
def replaced_by_a_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


@change
def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inner").write_text("new")


@change
def renamed_then_rewritten(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    rewritten_in_place(moved)


@change
def rewritten_through_a_new_hard_link(path: Path) -> None:
    link = path.with_name("link")
    link.hardlink_to(path)
    rewritten_in_place(link)


@change
def rewritten_through_an_old_hard_link(path: Path) -> None:
    rewritten_in_place(path.with_name("second-name"))


@change
def truncated_at_open_through_an_old_hard_link(path: Path) -> None:
    path.with_name("second-name").write_bytes(b"new")


@change
def given_other_attributes(path: Path) -> None:
    path.chmod(0o600)
    os.chown(path, 5, 6)
    os.utime(path, ns=(7, 8))
    os.setxattr(path, "user.kind", b"changed")
    os.removexattr(path, "user.gone")


@change
def moved_with_its_directory(path: Path) -> None:
    moved = path.parent.rename(path.parent.with_name("moved-directory"))
    rewritten_in_place(moved / path.name)


@change
def removed_with_its_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def fill(place: Path, seed: int = 0) -> Path:
    """Make a tree with a file to change; return the file."""
    directory = place / "directory"
    directory.mkdir()
    path = directory / "model"
    path.write_bytes(random.Random(seed).randbytes(SIZE_BYTES))
    os.setxattr(path, "user.kind", b"weights")
    os.setxattr(path, "user.gone", b"soon")
    os.utime(path, ns=(1_000, 1_700_000_000_123_456_789))
    (directory / "second-name").hardlink_to(path)
    (directory / "other-file").write_text("untouched")
    (directory / "empty").touch()
    (directory / "relative").symlink_to("model")
    os.mkfifo(directory / "pipe")
    with open(directory / "sparse", "wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    return path


def fill_for_each_change(place: Path) -> dict[str, Path]:
    """Make a tree for each way of changing a file; return the files."""
    files = {}
    for seed, name in enumerate(CHANGES):
        (place / name).mkdir()
        files[name] = fill(place / name, seed)
    return files
