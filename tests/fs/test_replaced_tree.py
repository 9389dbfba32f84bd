"""Files that are open while the tree becomes another version: each handle goes on with its own file's bytes."""

import mmap
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.mounting import Mount, Mounts, touch, wait_until

SIZE = 300_000


@pytest.fixture(params=["fusepy", "passthrough"])
def transport(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "passthrough" and (why := passthrough_obstacle()):
        pytest.skip(why)
    return name


def save(mounted: Mount, byte: bytes) -> None:
    """Make a version whose file has one byte all over."""
    (mounted.root / "model.bin").write_bytes(byte * SIZE)
    touch(mounted.root)
    mounted.sync()


def whole(fd: int) -> bytes:
    """All bytes of an open file, read from its end, so that pages come one by one."""
    pieces = [os.pread(fd, 4096, offset) for offset in range(0, SIZE, 4096)[::-1]]
    return b"".join(reversed(pieces))


def assert_each_has_its_own(mounted: Mount, old_fd: int, old: bytes, new: bytes) -> None:
    """Two handles of one name, read in turns: neither shows a byte of the other's file."""
    new_fd = os.open(mounted.root / "model.bin", os.O_RDONLY)
    try:
        assert os.pread(old_fd, 1, SIZE // 2) == old
        assert whole(new_fd) == new * SIZE
        assert whole(old_fd) == old * SIZE
        assert whole(new_fd) == new * SIZE
        with mmap.mmap(new_fd, SIZE, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapping:
            assert mapping[:] == new * SIZE
    finally:
        os.close(new_fd)
    assert (mounted.root / "model.bin").read_bytes() == new * SIZE


@pytest.mark.fuse
def test_a_file_open_during_a_restore_keeps_its_bytes_and_the_next_open_has_the_versions(
    mount: Mounts, transport: str
) -> None:
    mounted = mount(transport=transport)
    save(mounted, b"1")
    save(mounted, b"2")
    fd = os.open(mounted.root / "model.bin", os.O_RDWR)
    try:
        assert os.pread(fd, 100, 0) == b"2" * 100
        mounted.restore(1)
        assert_each_has_its_own(mounted, fd, b"2", b"1")
        os.pwrite(fd, b"x" * 5000, 0)
        assert (mounted.root / "model.bin").read_bytes() == b"1" * SIZE
    finally:
        os.close(fd)
    # nobody has the old file any more: the new one is an ordinary file again
    with open(mounted.root / "model.bin", "r+b") as file:
        with mmap.mmap(file.fileno(), SIZE) as mapping:
            mapping[:3] = b"new"
    touch(mounted.root)
    mounted.sync()
    assert (mounted.root / ".versions" / "3" / "model.bin").read_bytes() == b"new" + b"1" * (SIZE - 3)


@pytest.mark.fuse
def test_a_file_open_while_a_mount_follows_keeps_its_bytes_and_the_next_open_has_the_new_ones(
    mount: Mounts, transport: str
) -> None:
    writer = mount(name="writer")
    save(writer, b"1")
    follower = mount(name="follower", cache="cache-2", read_only=True, follow=True, transport=transport)
    fd = os.open(follower.root / "model.bin", os.O_RDONLY)
    try:
        assert os.pread(fd, 100, 0) == b"1" * 100
        save(writer, b"2")
        wait_until(lambda: follower.marker()["version"] == 2, 20, "it has moved on")
        wait_until(lambda: (follower.root / "model.bin").read_bytes()[:1] == b"2", 5, "names have too")
        assert_each_has_its_own(follower, fd, b"1", b"2")
    finally:
        os.close(fd)


@pytest.mark.fuse
def test_a_file_whose_content_both_versions_have_stays_the_same_file_for_whoever_has_it_open(
    mount: Mounts, transport: str
) -> None:
    mounted = mount(transport=transport)
    same = mounted.root / "same.bin"
    same.write_bytes(b"s" * SIZE)
    same.chmod(0o600)
    save(mounted, b"1")
    same.chmod(0o640)
    save(mounted, b"2")
    fd = os.open(same, os.O_RDWR)
    try:
        mounted.restore(1)
        assert os.fstat(fd).st_mode & 0o7777 == 0o600
        os.pwrite(fd, b"new", 0)
        assert same.read_bytes() == b"new" + b"s" * (SIZE - 3)
    finally:
        os.close(fd)
    touch(mounted.root)
    mounted.sync()
    assert (mounted.root / ".versions" / "3" / "same.bin").read_bytes() == b"new" + b"s" * (SIZE - 3)


@pytest.mark.fuse
@pytest.mark.parametrize("how", ["write-only", "read-write", "mapped"])
def test_what_was_written_to_an_open_file_since_the_last_save_is_not_there_after_a_restore(
    mount: Mounts, transport: str, how: str
) -> None:
    mounted = mount(transport=transport)
    fd = os.open(mounted.root / "model.bin", os.O_CREAT | (os.O_WRONLY if how == "write-only" else os.O_RDWR))
    try:
        os.pwrite(fd, b"1" * SIZE, 0)
        touch(mounted.root)
        mounted.sync()
        if how == "mapped":
            mapping = mmap.mmap(fd, SIZE)
            mapping[:5000] = b"x" * 5000
        else:
            os.pwrite(fd, b"x" * 5000, 0)
        mounted.restore("latest")
        assert (mounted.root / "model.bin").read_bytes() == b"1" * SIZE
    finally:
        os.close(fd)
    (kept,) = mounted.cache.glob("unsaved/*/model.bin")
    assert kept.read_bytes() == b"x" * 5000 + b"1" * (SIZE - 5000)


@pytest.mark.fuse
def test_what_is_set_through_a_descriptor_after_a_restore_is_set_of_the_file_that_is_open(
    mount: Mounts, transport: str
) -> None:
    """Through libfuse, of the one that has its name: it asks by names."""
    mounted = mount(transport=transport)
    save(mounted, b"1")
    save(mounted, b"2")
    (mounted.root / "model.bin").chmod(0o640)
    fd = os.open(mounted.root / "model.bin", os.O_RDONLY)
    try:
        mounted.restore(1)
        mode = (mounted.root / "model.bin").stat().st_mode
        os.fchmod(fd, 0o751)
        if asks_by_name(mounted):
            assert (mounted.root / "model.bin").stat().st_mode & 0o7777 == 0o751
        else:
            assert os.fstat(fd).st_mode & 0o7777 == 0o751
            assert (mounted.root / "model.bin").stat().st_mode == mode
    finally:
        os.close(fd)


def asks_by_name(mounted: Mount) -> bool:
    """True if libfuse asks for what a name leads to when a program asks for an open file's attributes."""
    return bool(mounted.status()["transport"] == "fusepy")


@pytest.mark.fuse
def test_directories_and_files_that_are_open_stay_what_they_are_while_a_mount_follows(
    mount: Mounts, transport: str
) -> None:
    writer = mount(name="writer")
    both = [f"both-{number:04}" for number in range(400)]
    (writer.root / "steps").mkdir()
    for name in (*both, *(f"old-{number:04}" for number in range(1200))):
        (writer.root / "steps" / name).touch()
    os.makedirs(writer.root / "goes" / "too")
    os.setxattr(writer.root / "steps" / both[0], "user.origin", b"old")
    save(writer, b"1")
    follower = mount(name="follower", cache="cache-2", read_only=True, follow=True, transport=transport)
    steps, goes, file = (os.open(follower.root / name, os.O_RDONLY) for name in ("steps", "goes", f"steps/{both[0]}"))
    was = os.fstat(file)
    try:
        with os.scandir(follower.root / "steps") as listing:
            seen = [next(listing).name]
            for name in list((writer.root / "steps").glob("old-*")):
                name.unlink()
            (writer.root / "steps" / "new").write_text("new")
            (writer.root / "steps" / both[0]).write_text("other")
            os.removedirs(writer.root / "goes" / "too")
            save(writer, b"2")
            wait_until(lambda: follower.marker()["version"] == 2, 20, "it has moved on")
            wait_until(lambda: (follower.root / "model.bin").read_bytes()[:1] == b"2", 5, "names have too")
            seen += [entry.name for entry in listing]
        assert len(seen) == len(set(seen))
        assert set(seen) >= set(both)
        assert sorted(os.listdir(steps)) == [*both, "new"]
        assert os.readlink(f"/proc/self/fd/{steps}") == str(follower.root / "steps")
        assert os.stat("new", dir_fd=steps).st_size == 3
        assert os.stat(both[0], dir_fd=steps).st_size == 5
        if asks_by_name(follower):
            assert os.fstat(file).st_size == 5
        else:
            assert os.fstat(file) == was
            assert os.getxattr(file, "user.origin") == b"old"
            assert os.listxattr(file) == ["user.origin"]
            assert os.listdir(goes) == []
            with os.fdopen(os.open(f"/proc/self/fd/{file}", os.O_RDONLY), "rb") as again:
                assert again.read() == b""
    finally:
        for fd in (steps, goes, file):
            os.close(fd)


@pytest.mark.fuse
def test_a_version_that_is_looked_at_stays_what_it_is_while_a_mount_follows(mount: Mounts, transport: str) -> None:
    writer = mount(name="writer")
    os.makedirs(writer.root / "run" / "first")
    save(writer, b"1")
    follower = mount(name="follower", cache="cache-2", read_only=True, follow=True, transport=transport)
    # the same directories, as the mount's own and as those of a version
    assert os.listdir(follower.root / "run") == ["first"]
    fd = os.open(follower.root / ".versions" / "1" / "run", os.O_RDONLY)
    try:
        (writer.root / "run" / "second").mkdir()
        save(writer, b"2")
        wait_until(lambda: len(os.listdir(follower.root / "run")) == 2, 20, "it has moved on")
        assert os.listdir(fd) == os.listdir(follower.root / ".versions" / "1" / "run") == ["first"]
        assert os.readlink(f"/proc/self/fd/{fd}") == str(follower.root / ".versions" / "1" / "run")
    finally:
        os.close(fd)


@pytest.mark.fuse
@pytest.mark.skipif(passthrough_obstacle() is not None, reason="through libfuse nobody takes over")
@pytest.mark.parametrize("transport", ["passthrough"])
def test_a_mount_that_has_moved_on_is_taken_over_with_all_that_is_open(mount: Mounts) -> None:
    writer = mount(name="writer")
    for path in ("stays/a/b", "goes/a/b"):
        os.makedirs(writer.root / path)
        for number in range(20):
            (writer.root / path / f"{number}.bin").write_bytes(b"1" * SIZE)
    save(writer, b"1")
    follower = mount(name="follower", cache="cache-2", read_only=True, follow=True)
    for path in (follower.root, follower.root / ".versions" / "1"):
        assert len(list(path.rglob("*.bin"))) == 41
    stays = os.open(follower.root / "stays" / "a", os.O_RDONLY)
    files = [os.open(follower.root / path / "a" / "b" / "7.bin", os.O_RDONLY) for path in ("stays", "goes")]
    try:
        shutil.rmtree(writer.root / "goes")
        (writer.root / "stays" / "a" / "b" / "7.bin").write_bytes(b"22")
        save(writer, b"2")
        wait_until(lambda: follower.marker()["version"] == 2, 20, "it has moved on")
        wait_until(lambda: (follower.root / "model.bin").read_bytes()[:1] == b"2", 5, "names have too")
        follower.kill_server()
        assert os.stat("b/7.bin", dir_fd=stays).st_size == 2
        for fd in files:
            assert os.fstat(fd).st_size == SIZE
            assert whole(fd) == b"1" * SIZE
        assert os.readlink(f"/proc/self/fd/{stays}") == str(follower.root / "stays" / "a")
        save(writer, b"3")
        wait_until(lambda: (follower.root / "model.bin").read_bytes()[:1] == b"3", 20, "it goes on")
    finally:
        for fd in (stays, *files):
            os.close(fd)


@pytest.mark.fuse
def test_a_program_finds_out_where_it_is_after_a_restore(mount: Mounts, transport: str) -> None:
    mounted = mount(transport=transport)
    (mounted.root / "run").mkdir()
    (mounted.root / "run" / "1").touch()
    save(mounted, b"1")
    (mounted.root / "run" / "2").touch()
    save(mounted, b"2")
    fd = os.open(mounted.root / "run", os.O_RDONLY)
    try:
        mounted.restore(1)
        # what getcwd(2) says to one that works there
        assert os.readlink(f"/proc/self/fd/{fd}") == str(mounted.root / "run")
        assert os.listdir(fd) == ["1"]
    finally:
        os.close(fd)


@pytest.mark.fuse
def test_a_directory_that_a_restore_takes_away_is_an_empty_one_for_whoever_has_it_open(mount: Mounts) -> None:
    mounted = mount(transport="passthrough")
    save(mounted, b"1")
    (mounted.root / "run" / "below").mkdir(parents=True)
    (mounted.root / "run" / "1").touch()
    (mounted.root / "anew").mkdir()
    save(mounted, b"2")
    goes, below, anew = (os.open(mounted.root / name, os.O_RDONLY) for name in ("run", "run/below", "anew"))
    try:
        mounted.restore(1)
        for fd in (goes, below):
            assert os.listdir(fd) == []
            assert os.fstat(fd).st_nlink == 0
            with pytest.raises(FileNotFoundError):
                os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        mounted.restore(2)
        assert sorted(os.listdir(mounted.root / "run")) == ["1", "below"]
        (mounted.root / "anew").rmdir()
        (mounted.root / "anew").mkdir()
        there = os.open(mounted.root / "anew", os.O_RDONLY)
        mounted.restore(2)
        (mounted.root / "anew" / "2").touch()
        assert os.listdir(there) == ["2"]
        os.close(there)
    finally:
        for fd in (goes, below, anew):
            os.close(fd)


KINDS: list[Callable[[Path], object]] = [Path.touch, Path.mkdir, lambda path: path.symlink_to("x"), os.mkfifo]


@pytest.mark.fuse
def test_a_name_that_becomes_another_kind_of_file_by_a_restore_is_that_at_once(mount: Mounts, transport: str) -> None:
    mounted = mount(transport=transport)
    place = mounted.root / "place"
    kinds: list[list[int]] = []
    # the new files get the numbers of inodes that were just removed
    for turn in range(len(KINDS)):
        place.mkdir()
        for number in range(12):
            KINDS[(number + turn) % len(KINDS)](place / str(number))
        kinds.append([stat.S_IFMT((place / str(number)).lstat().st_mode) for number in range(12)])
        touch(mounted.root)
        mounted.sync()
        shutil.rmtree(place)
    for turn in (0, 1, 3, 2, 0, 2, 1, 3):
        mounted.restore(turn + 1)
        assert [stat.S_IFMT((place / str(number)).lstat().st_mode) for number in range(12)] == kinds[turn]
