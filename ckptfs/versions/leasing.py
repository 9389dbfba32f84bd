"""The lease: reading it, writing it, and watching it to tell whether its holder is alive (FORMAT.md 6).

A lease is a hint. Who may commit is decided by fence records alone; so whatever is lost, late or overwritten here costs
a wait or a refused mount, never a version.

    L1  a lease of a lower epoch than the newest record's is not the holder's: the holder of that epoch has not written
        its own yet, or a fenced writer has just overwritten it. Either way that holder counts as alive until the lease
        has not changed for as long as it says
    L2  only an unchanged (epoch, counter) on the observer's own monotonic clock shows a dead holder; both rise only, so
        that equal means unchanged between two looks. Clocks of two hosts are never compared
    L3  a damaged lease counts as a missing one, if it is damaged when it is asked for once more: else what came had
        been damaged on its way, and the next look would take the lease for one that has changed
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ckptfs.errors import CorruptObjectError, NotFoundError
from ckptfs.format.header import MAX_SMALL_BYTES
from ckptfs.format.keys import LEASE_KEY
from ckptfs.format.lease import LeaseRecord, decode_lease, encode_lease
from ckptfs.store.base import Store
from ckptfs.versions.retry import Retry

log = logging.getLogger(__name__)

_LOOKS = 20
"""Looks at the lease within its duration: 1.5 s apart for 30 s, and a holder renews 3 times meanwhile."""
_LONGEST_PAUSE_S = 1.5


class Sight(Enum):
    """What watching a lease has shown."""

    DEAD = "not renewed for as long as it says"
    RELEASED = "given back: look at history again"
    ALIVE = "renewed"
    CHANGED = "another's now: look at history again"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who writes, as a lease and commit records name them."""

    host: str
    pid: int
    machine: str
    """Boot id of the machine."""
    lock: str
    """Path there of a file that the holder keeps locked while it lives."""
    lock_id: str
    """`<st_dev>:<st_ino>` of that file."""

    def lease(self, epoch: int, counter: int, lease_s: float, *, held: bool) -> LeaseRecord:
        """Return a lease of this holder."""
        return LeaseRecord(
            epoch=epoch,
            counter=counter,
            held=held,
            host=self.host,
            pid=self.pid,
            lease_s=lease_s,
            machine=self.machine,
            lock=self.lock,
            lock_id=self.lock_id,
        )


def read_lease(store: Store, retry: Retry) -> LeaseRecord | None:
    """Return the lease, None if there is none or it is damaged (L3)."""

    def read() -> LeaseRecord:
        return decode_lease(retry.call(lambda: store.get(LEASE_KEY, most_bytes=MAX_SMALL_BYTES)))

    try:
        try:
            return read()
        except CorruptObjectError:
            return read()
    except NotFoundError:
        return None
    except CorruptObjectError as error:
        log.warning("ignored a damaged lease store=%s error=%s", store.url, error)
        return None


def write_lease(store: Store, lease: LeaseRecord, retry: Retry) -> None:
    """Write the lease, sending it again while the outcome is unknown."""
    body = encode_lease(lease)
    retry.call(lambda: store.put(LEASE_KEY, body))


def watch_lease(
    first: LeaseRecord | None, epoch: int, lease_s: float, look: Callable[[], LeaseRecord | None], retry: Retry
) -> tuple[Sight, LeaseRecord | None]:
    """Look at a lease until it changes, or has not changed for its duration; return what that shows, and the lease now.

    Args:
        first: The lease as it was seen, after which the watch begins.
        epoch: Of the newest commit record.
        lease_s: How long an unchanged lease must be watched.
        look: Returns the lease as it is.
        retry: Whose clock and sleep are used.
    """
    since_s = retry.clock()
    pause_s = min(_LONGEST_PAUSE_S, lease_s / _LOOKS)
    while True:
        retry.sleep(pause_s)
        asked_s = retry.clock()
        lease = look()
        if _mark(lease) != _mark(first):
            if lease is None or lease.epoch != epoch:
                return Sight.CHANGED, lease
            return (Sight.ALIVE if lease.held else Sight.RELEASED), lease
        # from the answer to the first look to the question of the last: what lies between was certainly unchanged
        if asked_s - since_s >= lease_s:
            return Sight.DEAD, lease


def _mark(lease: LeaseRecord | None) -> tuple[int, int] | None:
    return None if lease is None else (lease.epoch, lease.counter)
