"""Which objects a version needs, and which versions need an object: what a collection has to know.

A version takes objects over from the one before it and from no other (transfer/upload.py, U3), except where a restore
brought back what an older version had; then its record says so (`revived`). So the versions that need an object are
neighbours, and whoever drops a version need look at the ones left and right of it only, and at all of them for an
object that was revived.
"""

from collections.abc import Mapping
from functools import partial

from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Part, Tree, merge
from ckptfs.versions.append import revival_of
from ckptfs.versions.history import History
from ckptfs.versions.references import needed_chunks
from ckptfs.versions.retry import Retry

Needs = Mapping[str, int]
"""Keys of packs and segments, each with the bytes of it that are known: up to its last chunk seen; all of a segment."""

_KEPT = 8
"""Versions whose needs stay in memory: 3 MB each where a version is 1 TB."""


class NeedsReader:
    """Reads what versions need, each once. Meant to be asked in the order of the versions: neighbours share parts."""

    def __init__(self, history: History, retry: Retry) -> None:
        self._history = history
        self._retry = retry
        self._needs: dict[int, Needs] = {}
        self._parts: dict[bytes, Part] = {}
        """Of the version read last, by hash."""
        self._keys: dict[str, str] = {}
        """Each key once, however many versions name it."""

    def record(self, version: int, newest: CommitRecord) -> CommitRecord:
        """Return a version's save record."""
        return self._retry.call(lambda: self._history.version(version, newest=newest))

    def of(self, version: int, newest: CommitRecord) -> Needs:
        """Return what reading a version takes, bases included.

        Raises:
            CorruptObjectError: Its manifest is damaged.
        """
        known = self._needs.get(version)
        if known is None:
            known = self._needs[version] = self._read(self.record(version, newest))
        return known

    def trim(self) -> None:
        """Keep in memory what was read last: whoever prunes after each save meets most of it again."""
        self._needs = dict(list(self._needs.items())[-_KEPT:])
        self._keys = {key: key for needs in self._needs.values() for key in needs}

    def _read(self, record: CommitRecord) -> Needs:
        parts = self._retry.call(lambda: self._history.load_parts(record, known=self._parts))
        self._parts = {ref.digest: part for ref, part in zip(record.parts, parts, strict=True)}
        needs = {ref.key: ref.stored_bytes for ref in record.parts if ref.at == "segment"}
        for pack, end_bytes in _packs(merge(parts)).items():
            needs[self._keys.setdefault(pack, pack)] = end_bytes
        return needs


def revived_packs(history: History, newest: CommitRecord, since_epoch: int, retry: Retry) -> set[str] | None:
    """Return the packs of an epoch or a later one that were revived, None if an older writer did not say which.

    Two GETs for each restore that was saved since that epoch began.
    """
    revived: set[str] = set()
    seq = revival_of(newest)
    while seq:
        record = retry.call(partial(history.record, seq))
        if record.epoch < since_epoch:
            break
        if record.revived is None:
            return None
        revived.update(record.revived)
        seq = revival_of(retry.call(partial(history.record, seq - 1)))
    return revived


def _packs(tree: Tree) -> dict[str, int]:
    ends: dict[str, int] = {}
    for chunk in needed_chunks(tree.values()):
        end_bytes = chunk.offset_bytes + chunk.stored_bytes
        if ends.get(chunk.pack, 0) < end_bytes:
            ends[chunk.pack] = end_bytes
    return ends
