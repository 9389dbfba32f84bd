"""Many of something: names in a directory, open files; and too few descriptors or inodes for it."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Mount, Mounts

pytestmark = pytest.mark.fuse

FILES = 1100
OPENS = {"passthrough": 10_000, "fusepy": 2_500}
_, MOST = resource.getrlimit(resource.RLIMIT_NOFILE)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="raises limits, mounts a small disk")


@contextlib.contextmanager
def descriptors(most: int) -> Iterator[None]:
    """Limit how many files this process may have open, and those that it starts until they ask for more."""
    before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, MOST))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, MOST))


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 200 inodes."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=200", "ckptfs-test", path], check=True, timeout=30)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True, timeout=30)


def names(mounted: Mount) -> set[str]:
    """List a mount by programs that ask for much at once, again and again, and for little."""
    listed = [set(os.listdir(mounted.root)) for _ in range(3)]
    for command in (["ls", "-f"], ["ls", "-l"]):
        subprocess.run([*command, mounted.root], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert listed[0] == listed[1] == listed[2]
    return listed[0]


@needs_root
def test_thousands_of_files_are_open_at_once_and_saved_and_a_thousand_short_names_are_listed(
    mount: Mounts, transport: str
) -> None:
    opens = OPENS[transport]
    assert opens + 500 < MOST, "this machine allows fewer open files than this test needs (ulimit -Hn)"
    mounted = mount.prepare()
    opened: list[int] = []
    with descriptors(256):
        # it raises its own limit
        mounted.start()
    with descriptors(MOST):
        try:
            for number in range(FILES):
                opened.append(os.open(mounted.root / f"{number}", os.O_RDWR | os.O_CREAT))
                os.write(opened[-1], b"%d" % number)
            for number in range(opens - FILES):
                opened.append(os.open(mounted.root / f"{number % FILES}", os.O_RDONLY))
            assert len(os.listdir(f"/proc/{mounted.pid}/fd")) > opens
            assert names(mounted) == {f"{number}" for number in range(FILES)}
            assert mounted.save() == 1
            assert os.pread(opened[-1], 10, 0) == b"%d" % ((opens - FILES - 1) % FILES)
            os.pwrite(opened[7], b"changed", 0)
        finally:
            for fd in opened:
                os.close(fd)
    assert mounted.save() == 2
    mounted.sync()
    versions = mounted.root / ".versions"
    assert [(versions / version / "7").read_bytes() for version in ("1", "2")] == [b"7", b"changed"]
    assert len(os.listdir(f"/proc/{mounted.pid}/fd")) < 100
