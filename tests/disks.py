"""Small disks, and how to fill them."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    """Make a filesystem in memory, with options of tmpfs(5), at a new directory. Needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "ckptfs-test", path], check=True, timeout=30)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True, timeout=30)


def fill(disk: Path) -> None:
    """Leave no room on a small disk, but for what is reserved already."""
    fd = os.open(disk / "filling", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, bytes(size))
    finally:
        os.close(fd)
