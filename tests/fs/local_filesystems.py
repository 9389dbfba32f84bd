"""Filesystems that a test mounts for a cache directory to be on."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted_at(directory: Path, *arguments: str) -> Iterator[None]:
    """Mount something, as mount(8) is told to; skip the test where that is not allowed."""
    tried = subprocess.run(["mount", *arguments, directory], capture_output=True, text=True, timeout=60)
    if tried.returncode != 0:
        pytest.skip(f"cannot mount {arguments[1]}: {tried.stderr.strip()}")
    try:
        yield
    finally:
        # lazily: a process that still looks at it must not keep it; the loop device goes with the last of them
        subprocess.run(["umount", "-l", directory], check=False, timeout=30)
