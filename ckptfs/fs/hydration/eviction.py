"""Keeping local disk under `--cache-size`: of what can be fetched again, the longest unused goes first.

What counts: live files that hold no more than a durable version does, files of versions that were read, and what is
kept for encoding. Files that changed since never go, nor do files that are open, mapped, or shared with a pending
version (live/evictable_files.py); anchors are the upload process's to drop.
"""

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ckptfs.cache.directory import CacheDirectory
from ckptfs.errors import CkptfsError
from ckptfs.fs.hydration.contents import ContentCache
from ckptfs.fs.hydration.fetching import FetchQueue

# what came since the last look is looked at in this time
_LOOK_S = 0.5
# a look asks for the status of every file: no more than a tenth of a processor for that
_REST = 10
# where nothing more can go now, something may have been closed
_FULL_S = 1.0

log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A file that may go."""

    used_ns: int
    """When it was last used, ns since 1970."""
    size_bytes: int
    """On disk."""
    path: bytes


_Row = tuple[Candidate, Callable[[], bool]]
"""And how to let go of it."""


class EvictableFiles(Protocol):
    """The live tree, as far as it can be fetched again."""

    def most_bytes(self) -> int:
        """Return how much that is at most; cheap."""

    def look(self) -> tuple[int, Sequence[Candidate]]:
        """Return how many bytes there are, and what of them may go."""

    def evict(self, path: bytes) -> bool:
        """Make a file a stub; return False if it is to stay."""


class Evictor:
    """Looks from time to time, in a thread of its own.

    Args:
        limit_bytes: The most that may stay.
        contents: Files of versions that were read.
        queue: Counts what comes.
        live: None for a mount without a live tree.
        sweep: Drops what is kept of versions that were pruned; called at the beginning, and when some were.
    """

    def __init__(
        self,
        cache: CacheDirectory,
        limit_bytes: int,
        contents: ContentCache,
        queue: FetchQueue,
        live: EvictableFiles | None = None,
        *,
        sweep: Callable[[], None] = lambda: None,
    ) -> None:
        self._contents_directory = cache.contents
        self._others = [cache.objects, cache.anchors] if live is not None else [cache.objects]
        self._limit_bytes = limit_bytes
        self._contents = contents
        self._queue = queue
        self._live = live
        self._sweep = sweep
        self._is_swept = False
        self._lock = threading.Lock()
        self._used_bytes = limit_bytes
        self._fetched_bytes = 0
        """Of the queue, when `_used_bytes` was right."""
        self._is_stale = True
        """It never was, or something has grown since that was not fetched."""
        self._wake = threading.Event()
        self._stopping = False

    def look_again(self) -> None:
        """Something may have grown that was not fetched. It is looked at soon, and not once for each that says so."""
        self._is_stale = True

    def versions_pruned(self) -> None:
        """There may be something to sweep."""
        self._is_swept = False
        self.look_again()

    def room_bytes(self) -> int:
        """Return how much may come without anything having to go."""
        if self._is_stale:
            self.look()
        return self._limit_bytes - self._used_bytes - self._came_bytes()

    def run(self) -> None:
        """Look until stop()."""
        while not self._stopping:
            pause_s = _LOOK_S
            if not self._is_swept:
                self._is_swept = True
                self._sweep_away()
            if self._is_stale or self._used_bytes + self._came_bytes() > self._limit_bytes:
                began_s = time.monotonic()
                try:
                    self.look()
                except Exception:
                    log.exception("could not look at what is cached")
                pause_s = max(pause_s, _REST * (time.monotonic() - began_s))
                if self._used_bytes > self._limit_bytes:
                    pause_s = max(pause_s, _FULL_S)
            self._wake.wait(pause_s)
            self._wake.clear()

    def stop(self) -> None:
        """Make run() return."""
        self._stopping = True
        self._wake.set()

    def make_room(self, size_bytes: int) -> bool:
        """The disk is full: let go of so much, longest unused first; return False if nothing could go."""
        return self.look(size_bytes) > 0

    def look(self, wanted_bytes: int = 0) -> int:
        """Add up what there is, and let go of what is too much.

        Args:
            wanted_bytes: To let go of in any case.

        Returns:
            How many bytes went.
        """
        with self._lock:
            self._is_stale, fetched_bytes = False, self._queue.fetched_bytes
            contents = list(_files(self._contents_directory))
            fixed_bytes = sum(row.size_bytes for other in self._others for row in _files(other))
            used_bytes = fixed_bytes + sum(row.size_bytes for row in contents)
            most_bytes = self._live.most_bytes() if self._live is not None else 0
            left_bytes, freed_bytes = used_bytes + most_bytes, 0
            if wanted_bytes or left_bytes > self._limit_bytes:
                drop = self._contents.drop
                rows: list[_Row] = [(row, functools.partial(drop, os.fsdecode(row.path))) for row in contents]
                if self._live is not None:
                    most_bytes, candidates = self._live.look()
                    rows += [(row, functools.partial(self._live.evict, row.path)) for row in candidates]
                used_bytes += most_bytes
                left_bytes = self._evict(used_bytes, min(self._limit_bytes, used_bytes - wanted_bytes), rows)
                freed_bytes = used_bytes - left_bytes
            self._used_bytes, self._fetched_bytes = left_bytes, fetched_bytes
            return freed_bytes

    def _sweep_away(self) -> None:
        try:
            self._sweep()
        except (CkptfsError, OSError) as error:
            log.info("did not sweep what is kept of pruned versions error=%r", str(error))

    def _came_bytes(self) -> int:
        return self._queue.fetched_bytes - self._fetched_bytes

    def _evict(self, used_bytes: int, limit_bytes: int, rows: list[_Row]) -> int:
        """Let go of files, given with how to, until few enough bytes are left; return how many are."""
        count, before_bytes = 0, used_bytes
        for candidate, evict in sorted(rows, key=lambda row: row[0]):
            if used_bytes <= limit_bytes or self._stopping:
                break
            began_s = time.monotonic()
            if evict():
                used_bytes -= candidate.size_bytes
                count += 1
                # the gate was closed: half of the time it is to be open
                time.sleep(time.monotonic() - began_s)
        if count:
            log.info("evicted files=%d bytes=%d cached_bytes=%d", count, before_bytes - used_bytes, used_bytes)
        return used_bytes


def _files(directory: Path) -> Iterator[Candidate]:
    """Yield all files below a directory, by their names."""
    for parent, _, names in os.walk(os.fsencode(directory)):
        for name in names:
            try:
                status = os.stat(os.path.join(parent, name))
            except FileNotFoundError:
                continue  # it has gone since
            yield Candidate(status.st_mtime_ns, status.st_blocks * 512, name)
