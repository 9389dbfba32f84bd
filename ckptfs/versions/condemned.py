"""What collections have condemned: the keys that no later commit may name (FORMAT.md 3, `gc`).

A gc record names the keys that it condemns itself, and the record before it points to the gc record before that one:
so they are read backwards, as far as is needed. A pack's key has the epoch in which it was written, and a collection of
an earlier epoch cannot name it. What a writer has just put is condemned by nobody (prune.G3), so that there is
nothing to ask; what it takes up again from an older version may be.
"""

from collections.abc import Iterable

from ckptfs.format.commit import CommitRecord
from ckptfs.format.keys import is_pack_key, pack_epoch
from ckptfs.versions.history import History


class Condemned:
    """The condemned keys of one history, as far as they have been asked for."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._keys: set[str] = set()
        self._newest = 0
        """Seq of the newest gc record read."""
        self._next: int | None = None
        """Seq of the newest gc record not read, below all that were; 0 if there is none, None before the first look."""

    def among(self, keys: Iterable[str], newest: CommitRecord) -> list[str]:
        """Return those of some keys of packs and segments that are condemned as of a newest record, in order.

        Segments are compared with what was collected since the first call: no version takes over another's segment
        but from the one before it, which is never dropped.

        Raises:
            CorruptObjectError: A gc record is missing or damaged.
        """
        wanted = set(keys)
        since_epoch = min((pack_epoch(key) for key in wanted if is_pack_key(key)), default=newest.epoch + 1)
        if self._next is None:
            self._newest = self._next = newest.gc
        seq = newest.gc
        while seq > self._newest:
            seq = self._read(seq)
        self._newest = max(self._newest, newest.gc)
        while self._next and self._history.record(self._next).epoch >= since_epoch:
            self._next = self._read(self._next)
        return sorted(wanted & self._keys)

    def _read(self, seq: int) -> int:
        """Take one gc record; return the seq of the one before it."""
        self._keys.update(self._history.record(seq).condemned)
        return self._history.record(seq - 1).gc
