"""Files that are open while the tree becomes another version: each handle goes on with its own file's bytes."""

import mmap
import os

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
