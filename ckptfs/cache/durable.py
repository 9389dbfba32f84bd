"""Making what is in the cache directory outlive the machine's next restart."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Have a file's bytes, or a directory's names, on disk when this returns. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
