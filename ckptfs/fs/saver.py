"""Saving: what lies between a touch of the marker and a captured version.

Order of a save: is there room for another pending version; is it allowed; pull dirty mapped pages in; close the gate;
capture; open the gate.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ckptfs.capture.capture import Captured, Capturer
from ckptfs.capture.gate import Gate
from ckptfs.errors import FencedError
from ckptfs.format.note import Note
from ckptfs.fs.counters import Counters
from ckptfs.fs.live.unseen import UnseenChanges
from ckptfs.fs.uploads import Uploads

log = logging.getLogger(__name__)


class MappedFlusher(Protocol):
    """Brings what programs changed through mappings into the live files."""

    def flush(self, path: bytes, ino: int) -> bool:
        """Return True when every page of a file that was dirty at the call is in its live file."""


class LiveSaver:
    """Captures of a live tree; the marker's Saver.

    Args:
        flusher: Brings dirty pages of mapped files out of the kernel; None while nothing is mounted.
        max_pending_bytes: Local disk that pending versions may keep before a save waits.
        sync_timeout_s: How long wait_durable waits while nothing more comes into the store.
        counters: Told of each capture.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        capturer: Capturer,
        unseen: UnseenChanges,
        uploads: Uploads,
        flusher: Callable[[], MappedFlusher | None],
        max_pending_bytes: int,
        sync_timeout_s: float,
        counters: Counters,
    ) -> None:
        self._gate = gate
        self._capturer = capturer
        self._unseen = unseen
        self._uploads = uploads
        self._flusher = flusher
        self._max_pending_bytes = max_pending_bytes
        self._sync_timeout_s = sync_timeout_s
        self._counters = counters
        self._lock = threading.Lock()
        self._took_s = 0.0, 0.0
        """How long the newest capture brought pages in, and how long it held programs back."""
        self.blocked_since: float | None = None
        """Wall clock time since when a save waits for room; None when none does."""
        self._blocked = 0
        self._blocked_lock = threading.Lock()
        self._is_ending = False

    def check_allowed(self) -> None:
        """Raise FencedError or NotDurableError if no save of this mount can ever become durable again."""
        self._uploads.check_allowed()

    def has_changes(self) -> bool:
        """True if the live tree may differ from the newest capture; dirty mapped pages are brought here to know."""
        if not self._capturer.changes.current.paths:
            self.flush_mapped()
            with self._gate:
                self._unseen.mark()
        return bool(self._capturer.changes.current.paths)

    def capture(self, note: Note, replace: Captured | None) -> Captured:
        """Capture the live tree. Raises FencedError and OSError (ENOSPC, EIO)."""
        with self._lock:
            self.check_allowed()
            started_s = time.monotonic()
            torn = self.flush_mapped()
            with self._gate.exclusive():
                closed_s = time.monotonic()
                self._unseen.mark()
                unseen, mapped = self._unseen.inodes(), self._unseen.mapped()
                captured = self._capturer.capture(note, torn=torn, unseen=unseen, mapped=mapped, replace=replace)
                self._unseen.captured(captured.looks)
                done_s = time.monotonic()
            self._uploads.captured(captured.pending, captured.slot, captured.kept_bytes)
            self._counters.add(save_s=done_s - started_s, stall_s=done_s - closed_s)
            if replace is None:
                # `echo step=1 > .save` captures when the shell closes a duplicate, and again when the text is there
                self._counters.add(
                    saves=1, captured_bytes=captured.pending.header.bytes, changed_bytes=captured.changed_bytes
                )
            self._took_s = closed_s - started_s, done_s - closed_s
            return captured

    def close(self, captured: Captured) -> None:
        """Hand a version to the upload process."""
        self._capturer.close(captured)
        self._uploads.wake()
        # here, not where it is captured: there a program waits, and a line takes a tenth of a small capture
        log.info(
            "captured version=%d captures=%d changed=%d files=%d bytes=%d torn=%d flushed_ms=%.1f stalled_ms=%.1f",
            captured.pending.version,
            captured.pending.generation,
            len(captured.changes.paths),
            captured.pending.header.files,
            captured.pending.header.bytes,
            captured.torn,
            *(1000 * took_s for took_s in self._took_s),
        )

    def withdraw(self, captured: Captured) -> None:
        """Undo the newest capture, whose touch goes on."""
        with self._lock:
            with self._gate.exclusive():
                self._capturer.withdraw(captured)
            self._uploads.withdrawn(captured.pending.version)
            log.info("withdrew version=%d", captured.pending.version)

    def wait_durable(self) -> None:
        """Return when all captured versions are durable. Raises NotDurableError, FencedError."""
        try:
            self._uploads.wait_durable(self._sync_timeout_s)
        except FencedError as error:
            # a sync says EIO where a save says EROFS: the data are here and cannot be made durable
            raise OSError(errno.EIO, error.fact) from error

    def has_room(self) -> bool:
        """True if pending versions keep less than their limit, or nobody may be kept waiting any more."""
        self.check_allowed()
        pending_bytes = self._uploads.pending_bytes
        # one may always wait, however small the limit
        return self._is_ending or not pending_bytes or pending_bytes < self._max_pending_bytes

    def wait_for_room(self) -> None:
        """Return when there may be room. Raises FencedError."""
        with self._blocked_lock:
            self._blocked += 1
            if self._blocked == 1:
                self.blocked_since = time.time()
                log.warning("blocked a save pending_bytes=%d", self._uploads.pending_bytes)
        try:
            self._uploads.wait_for_change(lambda: self.has_room())
        finally:
            with self._blocked_lock:
                self._blocked -= 1
                if not self._blocked:
                    self.blocked_since = None

    def end(self) -> None:
        """The mount is going away: saves that wait go on, as what they capture stays in the cache directory anyway."""
        self._is_ending = True
        self._uploads.poke()

    def flush_mapped(self) -> set[int]:
        """Bring dirty mapped pages into the live files; return the inodes for which that failed."""
        flusher = self._flusher()
        inodes = self._unseen.mappable()
        if flusher is None or not inodes:
            return set()
        failed = set(inodes)
        for path, ino in self._unseen.names_of(inodes):
            if flusher.flush(path, ino):
                failed.discard(ino)
            else:
                log.warning("could not flush mapped pages path=%r", os.fsdecode(path))
        return failed
