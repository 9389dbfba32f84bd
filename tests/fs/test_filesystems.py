"""Capturing on the filesystems that a cache directory may be on: ext4, which copies, XFS, which shares extents, and
overlayfs, where the kernel needs one more level for passthrough.

Each is made for the run, in an image on a loop device. What a version holds must not depend on which one it is.
"""

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ckptfs.format.manifest import Entry
from ckptfs.fs.transport.choice import passthrough_obstacle
from ckptfs.store.open import open_store
from ckptfs.versions.history import open_history
from tests.fs.changes import CHANGES, fill_for_each_change
from tests.fs.holding import Held
from tests.fs.local_filesystems import mounted_at
from tests.mapping import Mapping
from tests.mounting import Mounts
from tests.snapshot import assert_same, snapshot

pytestmark = pytest.mark.fuse

MIB = 1 << 20
# sparse; what the tests write stays below it, also where every copy takes its own room
IMAGE_BYTES = 3 << 30
BLOCK_BYTES = 64 << 10
MAKERS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"]}
KINDS = ["ext4", "xfs", "overlay"]

_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_FLAG_SYNC = 1
_FIEMAP_EXTENT_SHARED = 0x2000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]


@dataclass(frozen=True)
class Disk:
    """One filesystem, and a mount whose cache directory is on it."""

    kind: str
    directory: Path
    mounts: Mounts
    held: Held

    @property
    def shares_extents(self) -> bool:
        return self.kind == "xfs"

    def used_bytes(self) -> int:
        """Return how much of it is taken, once what was written has got its blocks."""
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            assert _libc.syncfs(fd) == 0
            status = os.fstatvfs(fd)
        finally:
            os.close(fd)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def entry(self, number: int, path: Path) -> Entry:
        """Return what a durable version says of a path of the mount."""
        history = open_history(open_store(self.mounts.file_store))
        tree = history.tree(history.resolve(number))
        return tree[os.fsencode(path.relative_to(self.held.root))]


@pytest.fixture(scope="module", params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    kind = request.param
    if obstacle := passthrough_obstacle():
        pytest.skip(f"no passthrough here: {obstacle}")
    top = tmp_path_factory.mktemp(kind)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(made_filesystem(top, "ext4" if kind == "overlay" else kind))
        if kind == "overlay":
            directory = stack.enter_context(overlay(directory, top / "overlay"))
        mounts = Mounts(top, 100.0, transport="passthrough")
        stack.callback(mounts.close)
        mounted = mounts(cache=str(directory / "cache"))
        assert mounted.status()["transport"] == "passthrough"
        yield Disk(kind, directory, mounts, Held(mounted))


@contextlib.contextmanager
def made_filesystem(top: Path, kind: str) -> Iterator[Path]:
    """Make a filesystem in an image file; yield where it is mounted."""
    command = MAKERS[kind]
    program = shutil.which(command[0], path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if program is None:
        pytest.skip(f"{command[0]} is not installed (scripts/system-packages test)")
    image, directory = top / "image", top / "disk"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run([program, *command[1:], image], check=True, timeout=60)
    directory.mkdir()
    with mounted_at(directory, "-t", kind, "-o", "loop", str(image)):
        yield directory


@contextlib.contextmanager
def overlay(disk: Path, directory: Path) -> Iterator[Path]:
    """Lay a filesystem over itself, as a container has it; yield where it is mounted."""
    for path in (disk / "lower", disk / "upper", disk / "work", directory):
        path.mkdir()
    options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
    with mounted_at(directory, "-t", "overlay", "-o", options, "overlay"):
        yield directory


@pytest.fixture
def place(disk: Disk, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new directory in the mount, emptied afterwards: the disk is small."""
    path = disk.held.root / request.node.originalname
    path.mkdir()
    yield path
    shutil.rmtree(path)
    disk.held.mount.save()
    disk.held.mount.sync()


def test_a_pending_version_keeps_its_bytes_however_its_files_are_changed(disk: Disk, place: Path) -> None:
    held = disk.held
    files = fill_for_each_change(place)
    with held.held():
        seen = snapshot(place)
        number = held.mount.save()
        for name, path in files.items():
            CHANGES[name](path)
        changed = snapshot(place)
        after = held.mount.save()
    assert_same(seen, held.version(number, place), "the version before the changes")
    assert_same(changed, held.version(after, place), "the version after them")
    assert_same(changed, snapshot(place), "the live tree")


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR], ids=["write-only", "read-write"])
def test_a_pending_version_keeps_its_bytes_when_written_through_a_handle_from_before(
    disk: Disk, place: Path, flags: int
) -> None:
    path = place / "f"
    path.write_bytes(b"old" * 100_000)
    fd = os.open(path, flags)
    try:
        os.pwrite(fd, b"before", 0)
        with disk.held.held():
            first = disk.held.mount.save()
            os.pwrite(fd, b"during", 0)
            second = disk.held.mount.save()
            os.ftruncate(fd, 3)
    finally:
        os.close(fd)
    assert disk.held.saved(first, path).read_bytes() == b"before" + (b"old" * 100_000)[6:]
    assert disk.held.saved(second, path).read_bytes() == b"during" + (b"old" * 100_000)[6:]
    assert path.read_bytes() == b"dur"


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_who_opens_an_empty_file_to_truncate_it_moves_its_mtime(disk: Disk, place: Path, flags: int) -> None:
    path = place / "f"
    path.touch()
    with disk.held.held():
        for _ in range(2):
            os.utime(path, ns=(10**18, 10**18))
            os.close(os.open(path, flags | os.O_TRUNC))
            assert path.stat().st_mtime_ns > 10**18
            disk.held.mount.save()


def test_a_mapping_is_saved_as_it_is_at_every_touch(disk: Disk, place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(MIB))
    # joins a handle for reading, so its mapping is one of the backing file
    with path.open("rb"):
        fd = os.open(path, os.O_RDWR)
        mapping = Mapping(fd, MIB, writes=True)
        os.close(fd)
    expected = {}
    with disk.held.held():
        for turn in range(4):
            mapping.view[turn * 8192 : turn * 8192 + 4] = mapping.view[0:4] = b"%04d" % turn
            content = bytes(mapping.view)
            expected[disk.held.mount.save()] = content
            mapping.view[0:4] = b"late"
    mapping.close()
    for number, content in expected.items():
        assert disk.held.saved(number, path).read_bytes() == content


def _data_of(disk: Disk, number: int) -> Path:
    (data,) = disk.directory.glob(f"cache/*/pending/{number:010d}.*/data/0")
    return data


def test_a_private_copy_shares_extents_where_the_filesystem_can_and_is_a_copy_where_not(
    disk: Disk, place: Path
) -> None:
    path = place / "large"
    # 256 MiB take 150 ms and more to copy
    large_bytes, turns = (256 * MIB, 3) if disk.shares_extents else (64 * MIB, 1)
    block, blocks = os.urandom(16 * MIB), large_bytes // (16 * MIB)
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)
        # extents are shared only once they are on disk: cloning writes back what is dirty, and that is not timed here
        os.fsync(file.fileno())
    (live,) = disk.directory.glob("cache/*/live")
    took_s = []
    with disk.held.held():
        for turn in range(turns):
            number = disk.held.mount.save()
            data = _data_of(disk, number)
            assert os.path.samefile(data, live / place.name / "large"), "captured without a copy"
            before = disk.used_bytes()
            started_s = time.perf_counter()
            with path.open("r+b", buffering=0) as file:
                took_s.append(time.perf_counter() - started_s)
                file.write(b"%04d" % turn)
            grown = disk.used_bytes() - before
            # its touch may have ended meanwhile, and its directory have another name
            data = _data_of(disk, number)
            assert not os.path.samefile(data, live / place.name / "large")
            if disk.shares_extents:
                assert grown < 8 * MIB
                assert shared_bytes(data) >= large_bytes - MIB
            else:
                assert grown > large_bytes - 8 * MIB
                assert shared_bytes(data) == 0
        if disk.shares_extents:
            assert min(took_s) < 0.05
    content = disk.held.saved(number, path).read_bytes()
    assert content == (b"%04d" % (turns - 2) + (block * blocks)[4:] if turns > 1 else block * blocks)


def shared_bytes(path: Path) -> int:
    """Return how many bytes of a file are in extents that others have too (FIEMAP)."""
    most = 500
    request = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, _FIEMAP_FLAG_SYNC, 0, most, 0) + bytes(most * 56))
    with path.open("rb") as file:
        fcntl.ioctl(file, _FS_IOC_FIEMAP, request)
    (found,) = struct.unpack_from("=L", request, 20)
    extents = [struct.unpack_from("=QQQQQLLLL", request, 32 + number * 56) for number in range(found)]
    return sum(extent[2] for extent in extents if extent[5] & _FIEMAP_EXTENT_SHARED)


def appended(fd: int, turn: int) -> None:
    os.write(fd, b"%07d\n" % turn)


def rewritten(fd: int, turn: int) -> None:
    os.pwrite(fd, bytes([turn % 251]) * BLOCK_BYTES, turn % 64 * BLOCK_BYTES)


def lines_count_up(data: bytes) -> bool:
    lines = data.splitlines(keepends=True)
    return lines == [b"%07d\n" % turn for turn in range(len(lines))]


def is_one_moment_of_rewriting(data: bytes) -> bool:
    """Each write takes the next block, round and round: at one moment the blocks are consecutive turns."""
    blocks = [data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)]
    if any(block != block[:1] * len(block) for block in blocks):
        return False
    newest = next((at for at in range(len(blocks) - 1) if (blocks[at + 1][0] - blocks[at][0]) % 251 != 1), -1)
    round_robin = [blocks[(newest + 1 + step) % len(blocks)][0] for step in range(len(blocks))]
    return all((later - earlier) % 251 == 1 for earlier, later in itertools.pairwise(round_robin))


@pytest.mark.parametrize(
    ("change", "is_whole"), [(appended, lines_count_up), (rewritten, is_one_moment_of_rewriting)], ids=["log", "ring"]
)
def test_a_file_written_all_the_time_is_whole_or_said_to_be_torn(
    disk: Disk, place: Path, change: Callable[[int, int], None], is_whole: Callable[[bytes], bool]
) -> None:
    path = place / "written"
    stop = threading.Event()
    turn = 0

    def write(fd: int) -> None:
        nonlocal turn
        while not stop.is_set():
            change(fd, turn)
            turn += 1

    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    for turn in range(64):
        change(fd, turn)
    turn = 64
    writer = threading.Thread(target=write, args=(fd,))
    writer.start()
    try:
        numbers = [disk.held.mount.save() for _ in range(6)]
        assert writer.is_alive()
    finally:
        stop.set()
        writer.join(30)
        os.close(fd)
    disk.held.mount.sync()
    for number in numbers:
        said = disk.entry(number, path).torn
        data = disk.held.saved(number, path).read_bytes()
        assert said or is_whole(data), f"version {number} is a mixture of moments, and does not say so"
        # a clone is made while nobody writes
        assert not (said and disk.shares_extents)


def test_a_write_that_is_under_way_at_a_touch_is_whole_in_both_versions(
    disk: Disk, place: Path, tmp_path: Path
) -> None:
    """write(2) sets the times when it begins: a file that looks the same before and after copying it may yet have been
    written to.
    """
    path, source = place / "rewritten", tmp_path / "source"
    size_bytes = 4 * MIB
    path.write_bytes(b"0" * size_bytes)
    source.write_bytes(b"1" * size_bytes)
    with slow_to_read(source) as buffer:
        fd = os.open(path, os.O_WRONLY)
        writer = threading.Thread(target=os.pwrite, args=(fd, buffer, 0))
        writer.start()
        # into the write, which takes 0.1 s and more
        time.sleep(0.03)
        assert writer.is_alive()
        during = disk.held.mount.save()
        writer.join(60)
        os.close(fd)
    after = disk.held.mount.save()
    disk.held.mount.sync()
    assert disk.held.saved(after, path).read_bytes() == b"1" * size_bytes
    found = set(disk.held.saved(during, path).read_bytes())
    assert len(found) == 1 or disk.entry(during, path).torn, "a mixture of moments that does not say so"


@contextlib.contextmanager
def slow_to_read(path: Path) -> Iterator[mmap.mmap]:
    """Map a file so that every page of it comes from the disk by itself, when it is needed."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            mapping.madvise(mmap.MADV_RANDOM)
            yield mapping


def test_a_store_that_comes_while_a_version_is_captured_is_in_the_next(disk: Disk, place: Path) -> None:
    """Only the first store into a page sets the times, until that page is written back."""
    path = place / "counter"
    path.write_bytes(bytes(MIB))
    with path.open("rb"):
        fd = os.open(path, os.O_RDWR)
        mapping = Mapping(fd, MIB, writes=True)
        os.close(fd)
    stop = threading.Event()

    def count() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            struct.pack_into("Q", mapping.view, 0, turn)
            struct.pack_into("Q", mapping.view, MIB - 8, turn)

    try:
        for _ in range(5):
            writer = threading.Thread(target=count)
            writer.start()
            disk.held.mount.save()
            stop.set()
            writer.join(30)
            stop.clear()
            content = bytes(mapping.view)
            number = disk.held.mount.save()
            disk.held.mount.sync()
            assert disk.held.saved(number, path).read_bytes() == content
    finally:
        mapping.close()
