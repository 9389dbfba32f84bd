"""Becoming the one writer of a store: wait until nobody else is, then shut everybody else out with a fence record.

Rules:
    Q1  the fence record alone decides: of any number of acquirers that saw the same newest record, one creates the next
    Q2  whoever lost the race looks at everything again, and meets a holder that is alive (leasing.L1)
    Q3  --takeover is aimed at the holder of the epoch first seen; one who came meanwhile is treated like any other
    Q4  a version committed while we waited shows that the holder is alive, whatever its lease says
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ckptfs.errors import CkptfsError, CorruptObjectError, HeldError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import LEASE_KEY
from ckptfs.format.lease import LeaseRecord
from ckptfs.versions.append import append, epoch_of, head_of, successor
from ckptfs.versions.history import History
from ckptfs.versions.leasing import Holder, Sight, read_lease, watch_lease
from ckptfs.versions.retry import Retry

_MAX_ROUNDS = 100
"""Rounds of looking at everything again. Each needs another acquirer's fence or holder's sign of life in between."""
_MAX_NAMING_READS = 16
"""Tags and collections skipped to name a holder whose lease is missing. Past that a tagger is named: no harm done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How the store is asked for."""

    holder: Holder
    lease_s: float
    takeover: bool
    holder_is_dead: Callable[[LeaseRecord], bool]
    """True only if it is certain, at once and without waiting."""
    holder_is_alive: Callable[[LeaseRecord], bool]
    """True only if it is certain; saves the wait for its next sign of life."""
    maker_is_dead: Callable[[CommitRecord], bool]
    """The same of who made a record, where there is no lease of its epoch: it may have died before it wrote one."""
    on_wait: Callable[[str], None]


class _OutrunError(CkptfsError):
    """Something was committed that may change who holds the store. Never leaves this module."""


def acquire_epoch(history: History, claim: Claim, retry: Retry) -> CommitRecord:
    """Fence the store and return our fence record.

    Raises:
        HeldError: Another holder is alive; names it.
        StoreUnavailableError: The store does not answer. A fence may or may not have been made.
    """
    newest = retry.call(history.end)
    first_epoch = epoch_of(newest)
    for _ in range(_MAX_ROUNDS):
        forced = claim.takeover and epoch_of(newest) == first_epoch
        if newest is None or forced or _is_free(history, newest, claim, retry):
            try:
                return append(history, newest, _fence(newest, claim, forced=forced), retry)
            except _OutrunError:
                pass  # somebody else has written meanwhile: look again
        newest = retry.call(history.end)
    raise HeldError(f"{history.store.url} changed hands {_MAX_ROUNDS} times while it was asked for")


def _is_free(history: History, newest: CommitRecord, claim: Claim, retry: Retry) -> bool:
    """Tell whether the store may be fenced; False says to look at everything again. Raises HeldError."""
    url = history.store.url
    lease = read_lease(history.store, retry)
    if lease is not None and lease.epoch > newest.epoch:
        _check_no_rollback(history, newest, lease, retry)
        return False
    if lease is not None and lease.epoch == newest.epoch:
        if not lease.held or claim.holder_is_dead(lease):
            return True
        if claim.holder_is_alive(lease):
            raise HeldError(f"{url} is mounted read-write by {lease.host} (pid {lease.pid}, on this machine)")
        name, lease_s = f"{lease.host} (pid {lease.pid}", lease.lease_s
    else:
        writer = _last_writer(history, newest)
        if claim.maker_is_dead(writer):
            return True
        name, lease_s = f"{writer.host} (pid {writer.pid}", claim.lease_s
    claim.on_wait(f"{url} is held by {name}); watching up to {lease_s:.0f} s for a sign of life")
    sight, lease = watch_lease(lease, newest.epoch, lease_s, lambda: read_lease(history.store, retry), retry)
    if sight is Sight.ALIVE and lease is not None and claim.holder_is_dead(lease):
        # it was written by a request that came late; what happened meanwhile is seen when the fence is made
        return True
    if sight is Sight.ALIVE and lease is not None:
        raise HeldError(f"{url} is mounted read-write by {lease.host} (pid {lease.pid}, renewed just now)")
    after = retry.call(history.end)
    if sight is Sight.DEAD and after is not None and after.epoch == newest.epoch and after.head != newest.head:
        raise HeldError(f"{url} is mounted read-write by {name}, committed version {after.version} just now)")
    return sight is Sight.DEAD and epoch_of(after) == newest.epoch


def _last_writer(history: History, newest: CommitRecord) -> CommitRecord:
    """Return a record to name the holder by: the newest save or fence, as anybody can tag and prune."""
    record = newest
    for _ in range(_MAX_NAMING_READS):
        if record.kind in (CommitKind.SAVE, CommitKind.FENCE):
            break
        record = history.record(record.seq - 1)
    return record


def _check_no_rollback(history: History, newest: CommitRecord, lease: LeaseRecord, retry: Retry) -> None:
    """Raise unless a lease's epoch, above that of the newest record seen before it, is in history by now."""
    again = retry.call(history.end)
    if epoch_of(again) < lease.epoch:
        raise CorruptObjectError(
            f"{LEASE_KEY} has epoch {lease.epoch}, but history ends at commit {newest.seq} with epoch {newest.epoch}: "
            f"commit records of {history.store.url} are missing",
            hint="was the store restored in part? bring the objects under c/ back, or delete the object `lease`",
        )


def _fence(
    seen: CommitRecord | None, claim: Claim, *, forced: bool
) -> Callable[[CommitRecord | None], tuple[CommitRecord, bytes]]:
    """Return the builder of our fence record, which gives up when something changes who holds the store."""
    commit_id = secrets.token_hex(16)

    def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        if epoch_of(newest) != epoch_of(seen) or (not forced and head_of(newest) != head_of(seen)):
            raise _OutrunError("history went on")
        return successor(newest, CommitKind.FENCE, commit_id, host=claim.holder.host, pid=claim.holder.pid), b""

    return build
