"""What two commit records must have to do with each other (FORMAT.md 3, C1 to C3 and C6, and the pointers).

Pure. One record alone is checked by format/commit_bytes.py when it is decoded.
"""

from ckptfs.errors import CorruptObjectError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import commit_key
from ckptfs.hashing import HASH_BYTES

NO_DIGEST = bytes(HASH_BYTES)
"""Stands for the record before the first."""
_BROKEN_CHAIN = "was not written after the one before it: another has taken its place (C6)"


def check_successor(previous: CommitRecord | None, record: CommitRecord) -> None:
    """Raise unless a record may directly follow another (None: unless it may be the first).

    Raises:
        CorruptObjectError: It breaks C1, C2, C3 or C6, or a pointer that it must carry on; names the later record.
    """
    before = previous or _NOTHING
    is_fence = record.kind is CommitKind.FENCE
    is_save = record.kind is CommitKind.SAVE
    _require(record, record.seq == before.seq + 1 and record.parent == before.seq, "does not follow it (C1)", before)
    _require(record, record.epoch == before.epoch + is_fence, f"has epoch {record.epoch} (C2)", before)
    _require(
        record,
        record.version > before.version if is_save else record.version == before.version,
        f"has version {record.version} (C3)",
        before,
    )
    _require(record, not (record.previous and before.digest) or record.previous == before.digest, _BROKEN_CHAIN, before)
    _check_pointer(record, "head", record.head, before.head, moves=is_save)
    _check_pointer(record, "tags", record.tags, before.tags, moves=record.kind is CommitKind.TAG)
    _check_pointer(record, "gc", record.gc, before.gc, moves=record.kind is CommitKind.GC)
    if record.revival is not None and record.revival != record.seq:
        carried = before.head if before.revival is None else before.revival
        _check_pointer(record, "revival", record.revival, carried, moves=False)


def check_order(earlier: CommitRecord, later: CommitRecord) -> None:
    """Raise unless two records that may lie far apart can belong to one history.

    Raises:
        CorruptObjectError: Epoch or version falls from the earlier to the later (C2, C3); names the later record.
    """
    _require(later, later.epoch >= earlier.epoch, f"has epoch {later.epoch} (C2)", earlier)
    _require(later, later.version >= earlier.version, f"has version {later.version} (C3)", earlier)


class _Nothing:
    """Stands before the first record: all counts 0."""

    seq = epoch = version = head = tags = gc = revival = 0
    digest = NO_DIGEST


_NOTHING = _Nothing()


def _check_pointer(record: CommitRecord, name: str, pointer: int, before: int, *, moves: bool) -> None:
    expected = record.seq if moves else before
    if pointer != expected:
        raise CorruptObjectError(
            f"{commit_key(record.seq)}: {name} is {pointer} in a {record.kind} record, expected {expected}"
        )


def _require(record: CommitRecord, holds: bool, fact: str, before: CommitRecord | _Nothing) -> None:
    if not holds:
        raise CorruptObjectError(
            f"{commit_key(record.seq)}: commit {record.seq} ({record.kind}) {fact}; "
            f"before it is commit {before.seq} with epoch {before.epoch} and version {before.version}"
        )
