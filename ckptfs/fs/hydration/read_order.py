"""The order in which files were first read, kept for the next mount: what a program reads at its start it will read in
the same order when it starts again, so that is the order in which to fetch ahead.

One small file in the store's cache directory: paths, each ended by a NUL. Losing it costs an order, nothing else.
"""

import logging
import os
import threading
from pathlib import Path

from ckptfs.private import write_private

# 20,000 paths of 80 bytes, 1.6 MB; of more files the others come in path order
_MOST_PATHS = 20_000

log = logging.getLogger(__name__)


class ReadOrder:
    """Thread-safe.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._now: dict[bytes, None] = {}
        self._is_saved = True
        try:
            before = path.read_bytes().split(b"\0")[:-1]
        except OSError:
            before = []
        self._before = before[:_MOST_PATHS]
        self.ranks: dict[bytes, int] = {path: rank for rank, path in enumerate(self._before)}
        """Path to its place the last time."""

    def read(self, path: bytes) -> None:
        """A file is opened for reading."""
        if path not in self._now and len(self._now) < _MOST_PATHS:
            with self._lock:
                self._now[path] = None
                self._is_saved = False

    def save(self) -> None:
        """Write it down if there is something new: what was read this time, then what was only read before."""
        with self._lock:
            if self._is_saved:
                return
            self._is_saved = True
            paths = list(dict.fromkeys([*self._now, *self._before]))[:_MOST_PATHS]
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            write_private(temporary, b"".join(path + b"\0" for path in paths))
            temporary.rename(self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            log.warning("could not keep the order of reading error=%r", str(error))
