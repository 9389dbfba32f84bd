"""History: reading what has been committed.

Every commit record carries the newest version number, and where the newest save, tag and gc records are; so the newest
record alone answers most questions, and any version is found by binary search over the contiguous numbers of the
records. Only `versions` takes time in proportion to the length of history.

Records never change, so those read lately are kept in memory. A History is safe for use by several threads.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from ckptfs.cache.high_water import HighWater, Mark
from ckptfs.errors import (
    CkptfsError,
    CorruptObjectError,
    InvalidInputError,
    NoSuchVersionError,
    NotFoundError,
    RollbackError,
    UnsupportedFormatError,
)
from ckptfs.format.commit import MAX_RECORD_BYTES, CommitKind, CommitRecord, is_tag_name
from ckptfs.format.commit_bytes import decode_commit
from ckptfs.format.header import StoreFormat
from ckptfs.format.keys import COMMIT_PREFIX, commit_key, commit_seq
from ckptfs.format.manifest import Part, Tree, merge
from ckptfs.format.rules import check_tree
from ckptfs.store.base import Store
from ckptfs.versions import ranges
from ckptfs.versions.create import read_format
from ckptfs.versions.decoded import read_decoded
from ckptfs.versions.naming import naming
from ckptfs.versions.opening import PLAIN, Access, unlock
from ckptfs.versions.recent import RecentRecords
from ckptfs.versions.tree import damaged_holders, load_parts
from ckptfs.versions.walk import first_with_version, walk_saves

LATEST = "latest"
# 4 million: one each second for 48 days, none pruned; as Python's numbers they take 250 MB
_MAX_LISTED = 1 << 22

_NUMBER = re.compile(r"[0-9]{1,19}")
"""19 digits: version numbers fit in 63 bits."""


class History:
    """The versions of one store."""

    def __init__(
        self, store: Store, store_id: str, *, is_encrypted: bool = False, high_water: HighWater | None = None
    ) -> None:
        self.store = store
        self.store_id = store_id
        self.is_encrypted = is_encrypted
        self._high_water = high_water
        self._recent = RecentRecords()

    def through(self, wrap: Callable[[Store], Store]) -> "History":
        """Return this history, read through another store in front of its own."""
        return History(wrap(self.store), self.store_id, is_encrypted=self.is_encrypted, high_water=self._high_water)

    def newest(self) -> CommitRecord | None:
        """Return the newest commit record of any kind, None if there is none. One LIST, and a GET if it is new to us.

        Raises:
            CorruptObjectError: It is damaged.
            RollbackError: It is older than what this machine has seen.
        """
        listed = next(self.store.list(COMMIT_PREFIX, limit=1), None)
        newest = self.record(commit_seq(listed.key)) if listed is not None else None
        return self._never_older(newest) if self._high_water is not None else newest

    def record(self, seq: int) -> CommitRecord:
        """Return the commit record of a number up to the newest. At most one GET.

        Raises:
            CorruptObjectError: It is missing or damaged.
        """
        return self._read(seq)[0]

    def probe(self, seq: int) -> CommitRecord | None:
        """Return the commit record of a number, or None if history does not go so far. At most one GET.

        Raises:
            CorruptObjectError: It is damaged.
        """
        known = self._recent.get(seq)
        if known is None:
            try:
                known = self._fetch(seq)
            except NotFoundError:
                return None
        return known[0]

    def end(self) -> CommitRecord | None:
        """Return the newest record even where listings lag, as those of NFS may. At least one GET more than `newest`.

        Raises:
            CorruptObjectError: A record is damaged.
        """
        newest = self.newest()
        while (record := self.probe(newest.seq + 1 if newest is not None else 1)) is not None:
            newest = record
        if newest is not None:
            self._rise(newest)
        return newest

    def still_has(self, record: CommitRecord) -> bool:
        """Tell whether the store itself, which nothing may be in front of, has a record. One GET."""
        try:
            return self._fetch(record.seq)[0].commit_id == record.commit_id
        except NotFoundError:
            return False

    def remember(self, record: CommitRecord, inline: bytes) -> None:
        """Keep a record that was just committed, so that it need not be read back."""
        self._recent.add(record, inline)
        self._rise(record)

    def head(self, *, newest: CommitRecord | None = None) -> CommitRecord | None:
        """Return the save record of the newest version, None if there is no version.

        Args:
            newest: The record to go by, if it is at hand; else the newest is looked up.
        """
        newest = newest or self.newest()
        if newest is None or not newest.head:
            return None
        return self._save_record(newest.head, newest.version)

    def version(self, number: int, *, newest: CommitRecord | None = None, even_dropped: bool = False) -> CommitRecord:
        """Return a version's save record. O(log n) GETs over n records.

        Args:
            number: Of the version.
            newest: The record to go by, if it is at hand; else the newest is looked up.
            even_dropped: Also of one whose objects may be gone: records are never deleted.

        Raises:
            NoSuchVersionError: It was never committed, or has been dropped.
        """
        newest = newest or self.newest()
        if newest is None or not 1 <= number <= newest.version:
            raise NoSuchVersionError(
                f"{self.store.url} has no version {number}, the newest is {_newest_version(newest)}"
            )
        if ranges.contains(newest.gaps, number):
            raise NoSuchVersionError(f"{self.store.url} has no version {number}: it was captured but never committed")
        if not even_dropped and ranges.contains(self.dropped(newest=newest), number):
            raise NoSuchVersionError(f"{self.store.url} has no version {number} any more: it was pruned")
        at_head = number == newest.version
        return self._save_record(newest.head if at_head else first_with_version(self.record, number, newest), number)

    def resolve(self, spec: str | int, *, newest: CommitRecord | None = None) -> CommitRecord:
        """Return the save record of a version given as a number, a tag, or `latest`.

        Raises:
            InvalidInputError: It can be neither.
            NoSuchVersionError: There is no such version or tag.
        """
        newest = newest or self.newest()
        if isinstance(spec, int) or _NUMBER.fullmatch(spec):
            return self.version(int(spec), newest=newest)
        if spec == LATEST:
            head = self.head(newest=newest)
            if head is None:
                raise NoSuchVersionError(f"{self.store.url} has no version yet", hint="touch .save in a mount of it")
            return head
        if not is_tag_name(spec):
            raise InvalidInputError(f"{spec[:120]!r} is neither a version number, nor a tag, nor {LATEST!r}")
        number = self.tags(newest=newest).get(spec)
        if number is None:
            raise NoSuchVersionError(f"{self.store.url} has no tag {spec!r}")
        return self.version(number, newest=newest)

    def versions(self, limit: int | None = None) -> Iterator[CommitRecord]:
        """Yield the save records of all versions there are, newest first. GETs run in parallel, a bounded number ahead.

        Args:
            limit: How many at most.

        Raises:
            CorruptObjectError: A record is missing or damaged, or contradicts its neighbour.
        """
        newest = self.newest()
        if newest is not None and newest.head:
            yield from walk_saves(self.record, newest, self.dropped(newest=newest), limit)

    def numbers(self) -> list[int]:
        """Return the numbers of all versions there are, ascending. No more requests than the newest record costs.

        Raises:
            CorruptObjectError: A forged record says that there are more than anybody can have made.
        """
        newest = self.newest()
        if newest is None:
            return []
        missing = ranges.union(newest.gaps, self.dropped(newest=newest))
        count = newest.version - sum(min(high, newest.version) - low + 1 for low, high in missing)
        if count > _MAX_LISTED:
            raise CorruptObjectError(f"{commit_key(newest.seq)} says that there are {count} versions")
        return list(ranges.outside(missing, newest.version))[::-1]

    def tags(self, *, newest: CommitRecord | None = None) -> dict[str, int]:
        """Return the tags and the version that each names."""
        newest = newest or self.newest()
        return dict(self._of_kind(newest.tags, CommitKind.TAG).tag_map) if newest is not None and newest.tags else {}

    def dropped(self, *, newest: CommitRecord | None = None) -> ranges.Ranges:
        """Return the numbers of the versions that have been pruned."""
        newest = newest or self.newest()
        return self._of_kind(newest.gc, CommitKind.GC).dropped if newest is not None and newest.gc else ()

    def load_parts(self, record: CommitRecord, *, known: Mapping[bytes, Part] = MappingProxyType({})) -> list[Part]:
        """Return the manifest parts of a save record, in order. See tree.load_parts."""
        return load_parts(self.store, record, lambda seq: self._read(seq)[1], known)

    def damaged_holders(self, record: CommitRecord) -> set[str]:
        """Return the keys of the objects in which parts of a save record cannot be read. See tree.damaged_holders."""
        return damaged_holders(self.store, record, lambda seq: self._read(seq)[1])

    def tree(self, record: CommitRecord) -> Tree:
        """Return all entries of a version.

        Raises:
            CorruptObjectError: A part is missing or damaged, or the parts make no tree.
            NoSuchVersionError: It was pruned since its record was read.
        """
        try:
            tree = merge(self.load_parts(record))
        except CorruptObjectError as error:
            self.require(record, error)
            raise
        with naming(commit_key(record.seq)):
            check_tree(tree)
        return tree

    def _never_older(self, newest: CommitRecord | None) -> CommitRecord | None:
        """Return the newest record, which is the listed one unless the listing lags."""
        seen = self._high_water.seen(self.store_id) if self._high_water is not None else Mark(0, b"")
        seq = newest.seq if newest is not None else 0
        if seq < seen.seq and self._is_there(seen.seq):
            newest, seq = self.record(seen.seq), seen.seq
        if seq < seen.seq:
            raise RollbackError(
                f"history of {self.store.url} ends at commit {seq}, and this machine has seen commit {seen.seq} of it"
            )
        if newest is not None:
            if seen.digest and self._digest_of(seen.seq, newest) not in (seen.digest, b""):
                raise RollbackError(f"commit {seen.seq} of {self.store.url} is another than this machine has seen")
            self._rise(newest)
        return newest

    def _digest_of(self, seq: int, newest: CommitRecord) -> bytes:
        """Return the digest of a record up to the newest; empty where it cannot be read, which `verify` tells."""
        if seq == newest.seq:
            return newest.digest
        try:
            return self.record(seq).digest
        except (CorruptObjectError, UnsupportedFormatError):
            return b""

    def _is_there(self, seq: int) -> bool:
        """Tell whether the store has a record, whatever is kept of it here."""
        try:
            self.store.get_range(commit_key(seq), 0, 1)
        except NotFoundError:
            return False
        return True

    def _rise(self, record: CommitRecord) -> None:
        if self._high_water is not None:
            self._high_water.rise(self.store_id, Mark(record.seq, record.digest))

    def require(self, record: CommitRecord, cause: CkptfsError) -> None:
        """Raise NoSuchVersionError if something of a version is missing because it was pruned meanwhile."""
        try:
            dropped = self.dropped()
        except CkptfsError:
            return  # that it is missing says more
        if ranges.contains(dropped, record.version):
            raise NoSuchVersionError(
                f"version {record.version} of {self.store.url} was pruned while it was read"
            ) from cause

    def _save_record(self, seq: int, number: int) -> CommitRecord:
        record = self._of_kind(seq, CommitKind.SAVE)
        if record.version != number:
            raise CorruptObjectError(f"{commit_key(seq)}: expected version {number}, this is {record.version}")
        return record

    def _of_kind(self, seq: int, kind: CommitKind) -> CommitRecord:
        """Return the record that another points to as one of a kind."""
        record = self.record(seq)
        if record.kind is not kind:
            raise CorruptObjectError(f"{commit_key(seq)}: expected a {kind} record, this is a {record.kind}")
        return record

    def _read(self, seq: int) -> tuple[CommitRecord, bytes]:
        try:
            return self._recent.get(seq) or self._fetch(seq)
        except NotFoundError as error:
            raise CorruptObjectError(f"{commit_key(seq)}: commit record {seq} is missing") from error

    def _fetch(self, seq: int) -> tuple[CommitRecord, bytes]:
        def decode(data: bytes) -> tuple[CommitRecord, bytes]:
            record, inline = decode_commit(data, seq=seq)
            if bool(record.previous) != self.is_encrypted:
                has, needs = ("a", "no") if record.previous else ("no", "a")
                raise CorruptObjectError(f"commit record {seq} has {has} `previous`, and its store needs {needs} such")
            return record, inline

        record, inline = read_decoded(self.store, commit_key(seq), decode, most_bytes=MAX_RECORD_BYTES)
        self._recent.add(record, inline)
        return record, inline


def open_history(store: Store, access: Access = PLAIN) -> History:
    """Return the history of a store. One GET.

    Args:
        store: As it is opened by its address; the history's own `store` opens what is encrypted.
        access: What we have to open it.

    Raises:
        InvalidInputError: The place is no ckptfs store, or not encrypted although a key was given.
        KeyMissingError: It is encrypted, and no key was given, or another.
        UnsupportedFormatError: A newer ckptfs made it.
    """
    return history_of(store, read_format(store), access)


def history_of(store: Store, store_format: StoreFormat, access: Access) -> History:
    """Return the history of a store whose format.json has been read. Errors as of open_history."""
    opened = unlock(store, store_format, access)
    return History(opened, store_format.store_id, is_encrypted=store_format.is_encrypted, high_water=access.high_water)


def _newest_version(newest: CommitRecord | None) -> int:
    return newest.version if newest is not None else 0
