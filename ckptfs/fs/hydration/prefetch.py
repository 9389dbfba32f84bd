"""Fetching what nobody has asked for yet: the rest of the file that was read last, then those that were read after it
the last time, then the others in path order.

A file that cannot be had is left to whoever opens it. When the store does not answer, all are asked for again later.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

from ckptfs.errors import CkptfsError, StoreError
from ckptfs.fs.hydration.fetching import FetchQueue, Priority
from ckptfs.fs.hydration.filling import Filling

# One batch: neighbours in a pack come in one request, and a program's next file is no further behind than this
_BATCH_BYTES = 16 << 20
_BATCH_FILES = 512
_BATCHES = 4
# Who mounts reads at once; the first requests are to be the reader's, for he decides what comes first
_SETTLE_S = 0.25
# by then a store that was restarted answers; one that is away for a day is asked some 1,500 times
_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0

log = logging.getLogger(__name__)


class Missing(Protocol):
    """Files without all their data."""

    def waiting(self) -> Sequence[tuple[bytes, Hashable]]:
        """Return path and key of each."""

    def begin(self, key: Hashable) -> Filling | None:
        """Return a file that is to be filled, joined; None if there is nothing to do."""


class Prefetch:
    """Fetches ahead, in a thread of its own.

    Args:
        files: What is missing.
        ranks: Path to its place in the order of reading.
        room_bytes: Returns how much may come without anything having to go.
        pause_s: How long a store that did not answer is left alone; it doubles each time.
    """

    def __init__(
        self,
        files: Missing,
        queue: FetchQueue,
        ranks: Mapping[bytes, int],
        room_bytes: Callable[[], int],
        *,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self._files = files
        self._queue = queue
        self._ranks = ranks
        self._room_bytes = room_bytes
        self._changed = threading.Condition()
        self._order: list[Hashable] = []
        self._position: dict[Hashable, int] = {}
        self._next: deque[Hashable] = deque()
        self._failed: set[Hashable] = set()
        self._followed: Hashable = None
        self._is_new = self._moved = True
        self._running = self._running_bytes = 0
        self._is_short = False
        """There is no room for more than what is under way, as far as it is known."""
        self._first_pause_s = self._pause_s = pause_s
        self._resume_s = 0.0
        """On the monotonic clock: nothing is begun before."""
        self._stopping = False

    def look_again(self) -> None:
        """There is more to be fetched."""
        with self._changed:
            self._is_new = True
            self._changed.notify_all()

    def follow(self, key: Hashable) -> None:
        """A program reads a file that is missing."""
        if key != self._followed:
            with self._changed:
                self._followed, self._moved = key, True
                self._changed.notify_all()

    def stop(self) -> None:
        """Make run() return."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def run(self) -> None:
        """Fetch until stop(); meant for a thread of its own."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _SETTLE_S)
        while self._wait_for_work():
            try:
                self._fetch_batch()
            except Exception:
                log.exception("prefetch failed")
                self._next.clear()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._stopping:
                left_s = self._resume_s - time.monotonic()
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                most = _BATCHES if not self._is_short else 1
                if self._running < most and (self._next or self._is_new or self._moved):
                    self._is_short = False
                    break
                self._changed.wait()
            if self._stopping:
                return False
            is_new, moved, self._is_new, self._moved = self._is_new, self._moved, False, False
        if is_new:
            self._plan()
        if is_new or moved:
            start = self._position.get(self._followed, 0)
            self._next = deque(self._order[start:] + self._order[:start])
        return True

    def _plan(self) -> None:
        last = len(self._ranks)
        rows = sorted(self._files.waiting(), key=lambda row: (self._ranks.get(row[0], last), row[0]))
        self._order = [key for _, key in rows]
        self._position = {key: position for position, key in enumerate(self._order)}
        self._failed.clear()

    def _fetch_batch(self) -> None:
        batch: dict[Hashable, Filling] = {}
        places: list[tuple[Filling, int]] = []
        room_bytes = self._room_bytes() - self._running_bytes
        left_bytes, is_full = min(_BATCH_BYTES, room_bytes), False
        while self._next and len(batch) < _BATCH_FILES:
            key = self._next[0]
            filling = self._files.begin(key) if key not in self._failed else None
            if filling is None:
                self._next.popleft()
                continue
            batch[key] = filling
            missing = _missing(filling)
            for index in missing:
                size_bytes = filling.chunks[index].size_bytes
                is_full = size_bytes > (left_bytes if places else room_bytes)
                if is_full:
                    break
                places.append((filling, index))
                left_bytes -= size_bytes
            if is_full:
                break  # goes on with the next batch
            self._next.popleft()
        if is_full and not places:
            # what is under way counts twice, until it is over
            self._is_short = self._running > 0
            if not self._is_short:
                log.info("prefetch stopped: the cache is full")
                self._next.clear()
        self._start(_Batch(batch, sum(filling.chunks[index].size_bytes for filling, index in places)), places)

    def _start(self, batch: "_Batch", places: list[tuple[Filling, int]]) -> None:
        with self._changed:
            self._running += 1
            self._running_bytes += batch.size_bytes
        batch.requests = 1
        requests = self._queue.ask(places, Priority.PREFETCH, lambda: self._one_done(batch)) if places else 0
        with self._changed:
            batch.requests += requests
        self._one_done(batch)

    def _one_done(self, batch: "_Batch") -> None:
        with self._changed:
            batch.requests -= 1
            if batch.requests:
                return
        errors = batch.leave()
        is_away = any(isinstance(error, StoreError) for error in errors.values())
        with self._changed:
            self._running -= 1
            self._running_bytes -= batch.size_bytes
            self._failed |= errors.keys()
            # said once, however long the store is away
            if errors and not (is_away and self._pause_s > self._first_pause_s):
                error = next(iter(errors.values()))
                log.warning("prefetch failed files=%d error=%r", len(errors), error.fact)
            if is_away:
                self._is_new = True
                # several batches that were under way are one failure
                if time.monotonic() >= self._resume_s:
                    self._resume_s = time.monotonic() + self._pause_s
                    self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            elif batch.size_bytes and not errors:
                self._pause_s = self._first_pause_s
            self._changed.notify_all()


class _Batch:
    """Files that are being fetched ahead together."""

    def __init__(self, files: dict[Hashable, Filling], size_bytes: int) -> None:
        self.requests = 0
        self.size_bytes = size_bytes
        self._files = files
        self._errors = {key: filling.errors for key, filling in files.items()}

    def leave(self) -> dict[Hashable, CkptfsError]:
        """Use them no more; return why some of them could not be had."""
        failed = {}
        for key, filling in self._files.items():
            error = filling.last_error
            if error is not None and filling.errors != self._errors[key]:
                failed[key] = error
            filling.leave()
        return failed


def _missing(filling: Filling) -> list[int]:
    """Return the chunks to fetch, those after the place where the file was read last first."""
    missing = filling.missing(filling.read_end_bytes)
    if filling.read_end_bytes:
        missing += sorted(set(filling.missing()) - set(missing))
    return missing
