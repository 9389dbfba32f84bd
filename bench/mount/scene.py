"""Where everything is measured: a mount, and a directory on the filesystem that holds the mount's cache."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ckptfs.fs.launch import start
from ckptfs.fs.options import MountOptions

_DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Scene:
    """One mount, and its native counterpart."""

    mount: Path
    native: Path
    cache: Path
    pid: int
    """Of the mount process."""

    def backing(self, path: Path) -> Path:
        """Return the file that holds the bytes of a path of either side."""
        if path.is_relative_to(self.native):
            return path
        (live,) = self.cache.glob("*/live")
        return live / path.relative_to(self.mount)

    def forget_pages(self, path: Path) -> None:
        """Have the next read of a file come from the disk."""
        fd = os.open(self.backing(path), os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def save(self) -> float:
        """Touch the marker; return how long that took (s)."""
        started_s = time.perf_counter()
        os.utime(self.mount / ".save")
        return time.perf_counter() - started_s

    def state(self) -> str:
        """Return the newest version's state."""
        return str(json.loads((self.mount / ".save").read_bytes())["state"])

    def sync(self) -> None:
        """Wait until every version is durable."""
        fd = os.open(self.mount / ".save", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def scene(directory: Path, transport: str) -> Iterator[Scene]:
    """Mount a new store below a directory; unmount, and remove all of it, at the end."""
    root = Path(tempfile.mkdtemp(prefix="ckptfs-bench-", dir=directory))
    mountpoint, native, cache = root / "mount", root / "native", root / "cache"
    for made in (mountpoint, native, cache, root / "store"):
        made.mkdir()
    options = MountOptions(
        store=f"file://{root}/store",
        mountpoint=mountpoint,
        cache_dir=cache,
        transport=transport,
        sync_timeout_s=1200.0,
        drain_timeout_s=5.0,
    )
    pid = start(options)
    # whoever hangs in the mount is freed by its death
    watchdog = threading.Timer(_DEADLINE_S, os.kill, (pid, signal.SIGKILL))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield Scene(mountpoint, native, cache, pid)
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=False, timeout=60)
        _end(pid)
        watchdog.cancel()
        shutil.rmtree(root, ignore_errors=True)


def _end(pid: int) -> None:
    """Wait for our child; kill it when it takes too long."""
    deadline_s = time.monotonic() + 30
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline_s:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
