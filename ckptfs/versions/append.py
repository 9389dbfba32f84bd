"""The one way a record enters history: creating the object of the next number.

Rules:
    A1  the object of seq n + 1 is created only by someone who has read record n, and never overwritten: so history is
        one line, and whatever record n says was known to whoever wrote record n + 1
    A2  an attempt whose outcome is unknown is repeated with the same body to the same key until it is known; a record
        that exists is read back, and its commit_id tells whether it is ours (a reply may have been lost, and the
        client library's own second attempt then meets our own object)
    A3  no attempt is made for seq n + 1 after one for seq n before it is known that another's record has seq n: a late
        duplicate of ours can then never take effect
"""

import time
from collections.abc import Callable
from dataclasses import replace

from ckptfs.errors import AlreadyExistsError, StoreUnavailableError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.commit_bytes import commit_digest, encode_commit
from ckptfs.format.keys import commit_key
from ckptfs.versions.chain import NO_DIGEST, check_successor
from ckptfs.versions.history import History
from ckptfs.versions.retry import Retry

Build = Callable[[CommitRecord | None], tuple[CommitRecord, bytes]]
"""Makes the record (and its inline bytes) that is to follow a newest one, or raises to give up."""

_MAX_LOST_RACES = 1000
"""Each lost race is another's success, so this many in a row means that history grows faster than we can read it."""


def append(history: History, newest: CommitRecord | None, build: Build, retry: Retry) -> CommitRecord:
    """Append one record to history.

    Args:
        history: Of the store.
        newest: The newest record that the caller knows; None for an empty history. It need not be the newest: the
            records that follow it are met one by one.
        build: Called with `newest`, and again with every record of somebody else that was met since. It returns a
            record of seq one higher, always with the same commit_id.
        retry: For attempts whose outcome is unknown.

    Returns:
        The record as it is in the store. It may be the one of an earlier attempt with the same commit_id.

    Raises:
        StoreUnavailableError: The outcome is still unknown at the end of the budget. Call again with a `build` of the
            same commit_id to go on.
        CorruptObjectError: A record that was met is damaged, or breaks C1 to C3.
        CkptfsError: What `build` raises.
    """
    for _ in range(_MAX_LOST_RACES):
        record, inline = build(newest)
        if history.is_encrypted:
            record = replace(record, previous=newest.digest if newest is not None else NO_DIGEST)
        body = encode_commit(record, inline)
        existing = _create(history, record, body, retry)
        if existing is None:
            record = replace(record, digest=commit_digest(body))
            history.remember(record, inline)
            return record
        check_successor(newest, existing)
        if existing.commit_id == record.commit_id:
            return existing
        newest = existing
    raise StoreUnavailableError(f"lost {_MAX_LOST_RACES} races in a row to append to history of {history.store.url}")


def successor(newest: CommitRecord | None, kind: CommitKind, commit_id: str, *, host: str, pid: int) -> CommitRecord:
    """Return the record of a kind that may follow the newest, with what every record carries on.

    The fields of its kind are empty, and a save still has the version before: the caller replaces them.
    """
    seq = newest.seq + 1 if newest is not None else 1
    return CommitRecord(
        seq=seq,
        parent=seq - 1,
        epoch=epoch_of(newest) + (kind is CommitKind.FENCE),
        commit_id=commit_id,
        kind=kind,
        time_ns=time.time_ns(),
        host=host,
        pid=pid,
        version=newest.version if newest is not None else 0,
        head=seq if kind is CommitKind.SAVE else head_of(newest),
        tags=seq if kind is CommitKind.TAG else newest.tags if newest is not None else 0,
        gc=seq if kind is CommitKind.GC else newest.gc if newest is not None else 0,
        gaps=newest.gaps if newest is not None else (),
        revival=revival_of(newest),
        pins=newest.pins if newest is not None else (),
    )


def epoch_of(newest: CommitRecord | None) -> int:
    """Return the epoch as of a newest record, 0 for an empty history."""
    return newest.epoch if newest is not None else 0


def head_of(newest: CommitRecord | None) -> int:
    """Return the seq of the newest version's save record as of a newest record, 0 if there is none."""
    return newest.head if newest is not None else 0


def revival_of(newest: CommitRecord | None) -> int:
    """Return the seq of the newest save that took packs up again, or may have, as of a newest record; 0 if none."""
    return head_of(newest) if newest is None or newest.revival is None else newest.revival


def _create(history: History, record: CommitRecord, body: bytes, retry: Retry) -> CommitRecord | None:
    """Create a record's object, or return the one that exists (A2)."""
    key = commit_key(record.seq)

    def attempt() -> CommitRecord | None:
        try:
            history.store.create(key, body)
            return None
        except AlreadyExistsError:
            existing = history.probe(record.seq)
        if existing is None:
            # cannot be (S1, and commit records are never deleted) unless the store contradicts itself for a moment
            raise StoreUnavailableError(f"{history.store.url} said that {key} exists, then that it does not")
        return existing

    return retry.call(attempt)
