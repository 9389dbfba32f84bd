"""Reading files whose data are not here: what comes, when, and what it cannot be hurt by; on real mounts."""

import errno
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mounting import Mount, Mounts, touch, wait_until

pytestmark = pytest.mark.fuse

CHUNK = 4 << 20
BIG = os.urandom(6 * CHUNK)
SMALL = {name: os.urandom(100_000) for name in ("linked", "moved", "removed", "replaced", "sparse-not")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with one version: `big`, `sparse`, small ones, and `hard`, a second name of `linked`."""
    mounts = Mounts(tmp_path_factory.mktemp("made"), 60.0)
    try:
        mounted = mounts()
        (mounted.root / "big").write_bytes(BIG)
        for name, content in SMALL.items():
            (mounted.root / name).write_bytes(content)
        os.link(mounted.root / "linked", mounted.root / "hard")
        with (mounted.root / "sparse").open("wb") as file:
            file.truncate(3 * CHUNK)
            os.pwrite(file.fileno(), b"x" * 4096, CHUNK)
        with (mounted.root / "hole").open("wb") as file:
            file.truncate(CHUNK)
        touch(mounted.root)
        mounted.sync()
        assert mounted.unmount() == 0
        yield mounts.directory / "store"
    finally:
        mounts.close()


@pytest.fixture
def cold(made: Path, mount: Mounts) -> Mount:
    """A mount of it with an empty cache."""
    shutil.copytree(made, mount.directory / "store", copy_function=os.link)
    return mount()


def here(mounted: Mount, name: str = "big") -> int:
    """Bytes of a live file that are on local disk."""
    return (mounted.cache / "live" / name).stat().st_blocks * 512


def seeks(mounted: Mount) -> bool:
    """True if lseek(2) finds holes: libfuse 2 has no such request."""
    return bool(mounted.status()["transport"] == "passthrough")


def change_pack(store: Path, holding: bytes, change: bytes) -> None:
    """Put other bytes in the place of some that a pack holds."""
    for pack in (store / "p").iterdir():
        body = pack.read_bytes()
        if holding in body:
            pack.unlink()  # other tests have the same file
            pack.write_bytes(body.replace(holding, change))


def test_a_read_brings_the_chunks_that_it_needs_and_nothing_looks_different(cold: Mount) -> None:
    path = cold.root / "big"
    before = path.stat()
    with path.open("rb", buffering=0) as file:
        assert here(cold) == 0
        assert os.pread(file.fileno(), 10, 5 * CHUNK + 7) == BIG[5 * CHUNK + 7 :][:10]
        assert here(cold) == CHUNK
        assert os.pread(file.fileno(), 100_000, CHUNK - 50_000) == BIG[CHUNK - 50_000 :][:100_000]
        assert here(cold) == 3 * CHUNK
        if seeks(cold):
            assert os.lseek(file.fileno(), 3 * CHUNK, os.SEEK_DATA) == 3 * CHUNK
            assert os.lseek(file.fileno(), 3 * CHUNK, os.SEEK_HOLE) == len(BIG)
            for offset, whence in ((len(BIG), os.SEEK_DATA), (-1, os.SEEK_DATA), (-1, os.SEEK_HOLE)):
                with pytest.raises(OSError) as caught:
                    os.lseek(file.fileno(), offset, whence)
                assert caught.value.errno == errno.ENXIO
        assert cold.status()["not_fetched_bytes"] == 3 * CHUNK + sum(map(len, SMALL.values())) + 4 * CHUNK
        after = path.stat()
        for name in ("st_size", "st_blocks", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_nlink"):
            assert getattr(after, name) == getattr(before, name), name
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            middle = 3 * CHUNK + CHUNK // 2  # the kernel reads around it
            assert mapping[middle : middle + 100] == BIG[middle:][:100]
            assert here(cold) == 4 * CHUNK
            assert mapping[:] == BIG
        assert here(cold) == len(BIG)
        assert os.pread(file.fileno(), 10, 0) == BIG[:10]
    # and what only looks like an ordinary file by now is one
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" + BIG[3:]
    with (cold.root / "sparse").open("rb", buffering=0) as file:
        if seeks(cold):
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == CHUNK
            assert os.lseek(file.fileno(), CHUNK, os.SEEK_HOLE) == CHUNK + 4096
        assert os.pread(file.fileno(), 10, 0) == bytes(10)
        assert here(cold, "sparse") == 0
        assert os.pread(file.fileno(), 4100, CHUNK) == b"x" * 4096 + bytes(4)
    assert (cold.root / "hole").read_bytes() == bytes(CHUNK)
    subprocess.run(["cp", cold.root / "linked", cold.root / "copy"], check=True, timeout=30)
    assert (cold.root / "copy").read_bytes() == (cold.root / "hard").read_bytes() == SMALL["linked"]


def test_a_file_that_is_partly_here_is_captured_as_it_is_in_the_store(cold: Mount) -> None:
    root = cold.root
    with (root / "big").open("rb", buffering=0) as file:
        file.read(10)
        (root / "big").chmod(0o600)
        (root / "big").rename(root / "renamed")
        os.utime(root / "renamed", ns=(7, 7))
        assert cold.save() == 2
        assert os.pread(file.fileno(), 10, 3 * CHUNK) == BIG[3 * CHUNK :][:10]
        assert here(cold, "renamed") == 2 * CHUNK
    cold.sync()
    assert cold.marker()["bytes_uploaded"] < CHUNK
    stored = root / ".versions" / "2" / "renamed"
    assert (stored.stat().st_mtime_ns, stored.stat().st_mode & 0o777) == (7, 0o600)
    # of it, too, only what is read comes
    with stored.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 2 * CHUNK) == BIG[2 * CHUNK :][:10]
        (part,) = (cold.cache / "contents").iterdir()
        assert part.stat().st_blocks * 512 == CHUNK
        assert file.read() == BIG
    wait_until(lambda: [path.suffix for path in (cold.cache / "contents").iterdir()] == [""], 10, "it is kept")
    # who changes it gets it whole first
    os.truncate(root / "renamed", 5 * CHUNK + 1)
    assert (root / "renamed").read_bytes() == BIG[: 5 * CHUNK + 1]


def test_what_is_open_is_read_to_its_end_whatever_becomes_of_its_name(cold: Mount) -> None:
    root = cold.root
    names = ["big", "removed", "replaced", "linked"]
    files = {name: (root / name).open("rb", buffering=0) for name in names}
    try:
        assert files["big"].read(10) == BIG[:10]
        (root / "removed").unlink()
        (root / "moved").rename(root / "replaced")
        (root / "hard").unlink()
        (root / "linked").unlink()
        (root / "big").write_bytes(b"two")
        version = cold.save()
        assert files["big"].read(10) == b""  # truncated
        assert files["replaced"].read() == SMALL["replaced"]
        cold.sync()
        (root / "big").unlink()
        cold.restore(1)
        again = (root / "big").open("rb", buffering=0)
        files["again"] = again
        assert os.pread(again.fileno(), 10, 2 * CHUNK) == BIG[2 * CHUNK :][:10]
        cold.restore(version)  # `big` loses its name, and half of its data are not here
        assert (root / "big").read_bytes() == b"two"
        assert (root / "replaced").read_bytes() == SMALL["moved"]
        if seeks(cold):
            assert os.fstat(again.fileno()).st_nlink == 0
        assert again.read() == BIG
        assert files["removed"].read() == SMALL["removed"]
        assert files["linked"].read() == SMALL["linked"]
    finally:
        for file in files.values():
            file.close()
    cold.save()
    assert not list((cold.cache / "unsaved").rglob("big"))


def test_damage_and_a_store_that_is_away_hurt_only_who_reads_there_and_only_while_it_lasts(
    cold: Mount, mount: Mounts
) -> None:
    store = mount.directory / "store"
    bad = BIG[2 * CHUNK + 1000 :][:16]
    change_pack(store, bad, bytes(16))
    path = cold.root / "big"
    with path.open("rb", buffering=0) as file:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output") as caught:
                os.pread(file.fileno(), 10, 2 * CHUNK)
            assert caught.value.errno == errno.EIO
        assert os.pread(file.fileno(), 10, 3 * CHUNK) == BIG[3 * CHUNK :][:10]
        with pytest.raises(OSError, match="Input/output"):
            path.open("r+b").close()
        line = next(line for line in cold.log.splitlines() if "operation=read_into" in line)
        assert all(fact in line for fact in ("'big'", "chunk ", " in p/"))
        change_pack(store, bytes(16), bad)
        assert os.pread(file.fileno(), 10, 2 * CHUNK) == BIG[2 * CHUNK :][:10]
    assert path.read_bytes() == BIG


def test_what_had_come_when_everything_was_killed_is_kept_and_checked(cold: Mount, mount: Mounts) -> None:
    inode = (cold.root / "big").stat().st_ino
    live = cold.cache / "live" / "big"
    fd = os.open(cold.root / "big", os.O_RDONLY)
    assert os.pread(fd, 10, 0) == BIG[:10]
    assert os.pread(fd, 10, 2 * CHUNK) == BIG[2 * CHUNK :][:10]
    cold.kill()
    with suppress(OSError):
        os.close(fd)
    with live.open("r+b") as file:
        os.pwrite(file.fileno(), b"wrong", CHUNK + 5)
    away = mount.directory / "away"
    (mount.directory / "store" / "p").rename(away)
    again = mount()
    path = again.root / "big"
    assert path.stat().st_ino == inode
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 0) == BIG[:10]
        assert os.pread(file.fileno(), 10, 2 * CHUNK) == BIG[2 * CHUNK :][:10]
        with pytest.raises(OSError, match="Input/output"):
            os.pread(file.fileno(), 10, CHUNK)
        away.rename(mount.directory / "store" / "p")
        assert file.read() == BIG
    assert not list((again.cache / "unsaved").iterdir())


def test_a_read_only_mount_reads_in_pieces_and_old_files_stay_what_they_are(cold: Mount, mount: Mounts) -> None:
    follower = mount(name="follower", cache="other", read_only=True, follow=True)
    with (follower.root / "big").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, CHUNK) == BIG[CHUNK:][:10]
        (part,) = (follower.cache / "contents").iterdir()
        assert part.stat().st_blocks * 512 == CHUNK
        (cold.root / "big").write_bytes(b"two")
        cold.save()
        cold.sync()
        wait_until(lambda: follower.marker()["version"] == 2, 20, "it follows")
        wait_until(lambda: (follower.root / "big").read_bytes() == b"two", 5, "the new file is seen")
        if follower.status()["transport"] == "passthrough":
            follower.kill_server()
        assert os.pread(file.fileno(), 10, 3 * CHUNK) == BIG[3 * CHUNK :][:10]
        assert file.read() == BIG


def test_kept_files_that_a_power_cut_has_emptied_are_fetched_again(cold: Mount, mount: Mounts) -> None:
    contents = cold.cache / "contents"
    for mounted, name in ((cold, ".versions/1/big"), (None, ".versions/1/big"), (None, "big")):
        mounted = mounted or mount(read_only=name == "big")
        assert (mounted.root / name).read_bytes() == BIG, name
        wait_until(lambda: [kept.suffix for kept in contents.iterdir()] == [""], 10, "it is kept")
        assert mounted.unmount() == 0
        (kept,) = contents.iterdir()
        os.truncate(kept, 0)
        os.truncate(kept, len(BIG))
        (mounted.cache / "contents-boot").write_text("the boot before")
