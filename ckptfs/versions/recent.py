"""Commit records that were read lately, kept in memory up to a bound. They never change, so they are never stale."""

import threading
from collections import OrderedDict

from ckptfs.format.commit import CommitRecord

_RECORD_BYTES = 2048
"""What a record without inline parts is counted as: measured 1.5 to 2 KiB as Python objects."""


class RecentRecords:
    """The most recently used records and their inline bytes. Safe for use by several threads.

    Args:
        limit_bytes: Bound on the sum of the inline bytes and of _RECORD_BYTES for each record.
    """

    def __init__(self, limit_bytes: int = 32 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._records: OrderedDict[int, tuple[CommitRecord, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, seq: int) -> tuple[CommitRecord, bytes] | None:
        """Return a record and its inline bytes, or None if it is not held."""
        with self._lock:
            found = self._records.get(seq)
            if found is not None:
                self._records.move_to_end(seq)
            return found

    def add(self, record: CommitRecord, inline: bytes) -> None:
        """Hold a record, at the price of those used longest ago."""
        with self._lock:
            if record.seq in self._records:
                return
            self._records[record.seq] = (record, inline)
            self._held_bytes += _RECORD_BYTES + len(inline)
            while self._held_bytes > self._limit_bytes:
                _, (_, dropped) = self._records.popitem(last=False)
                self._held_bytes -= _RECORD_BYTES + len(dropped)
