"""Memory and disk of a mount's processes over hours, as samples."""

import os
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import pss_bytes, tree_of

_INTERVAL_S = 2.0


@dataclass
class Watch:
    """Samples until it is stopped.

    Args:
        root: Returns the process whose tree is measured, None while there is none.
        cache_dir: Whose disk is measured.
    """

    root: Callable[[], int | None]
    cache_dir: Path
    memory_bytes: list[int] = field(default_factory=list)
    """Pss, of all processes together."""
    disk_bytes: list[int] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        self._done.set()

    def _run(self) -> None:
        while not self._done.wait(_INTERVAL_S):
            root = self.root()
            if root is not None and (size := sum(map(pss_bytes, tree_of(root)))):
                self.memory_bytes.append(size)
            self.disk_bytes.append(_used_bytes(self.cache_dir))


def quarters(samples: list[int]) -> tuple[float, float]:
    """Return the medians of the first and of the last quarter."""
    size = max(1, len(samples) // 4)
    return statistics.median(samples[:size]), statistics.median(samples[-size:])


def _used_bytes(top: Path) -> int:
    seen: dict[int, int] = {}
    for directory, _, names in os.walk(top):
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError:
                continue  # it went meanwhile
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
