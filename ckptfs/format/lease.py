"""The lease: who writes to a store, and a counter that shows that they are alive.

Pure. Layout: docs/FORMAT.md section 6; change both in one commit. A lease is a hint and never a fence: what it says
decides how long to wait before fencing, not who may commit.
"""

from dataclasses import dataclass

from ckptfs.errors import CorruptObjectError
from ckptfs.format.fields import (
    check_same,
    dump_object,
    load_object,
    take_int,
    take_text,
    verify_check,
    with_check,
)
from ckptfs.format.keys import MAX_EPOCH

MAX_LEASE_S = 86400.0
"""One day: a reader waits as long as the lease says, so that what it says is bounded."""

_WHAT = "the lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The content of the lease object (FORMAT.md 6)."""

    epoch: int
    counter: int
    """Raised every third of lease_s by a holder that is alive."""
    held: bool
    """False after a clean unmount."""
    host: str
    pid: int
    lease_s: float
    machine: str
    """Boot id of the holder's machine."""
    lock: str
    """Path there of a file that the holder keeps locked."""
    lock_id: str
    """`<st_dev>:<st_ino>` of that file."""


def encode_lease(lease: LeaseRecord) -> bytes:
    """Return the bytes of the lease object."""
    names = ("epoch", "counter", "held", "host", "pid", "lease_s", "machine", "lock", "lock_id")
    data = with_check(dump_object({name: getattr(lease, name) for name in names}, _WHAT))
    check_same(decode_lease(data), lease, _WHAT)
    return data


def decode_lease(data: bytes) -> LeaseRecord:
    """Return the value of the lease object. Raises CorruptObjectError if it is none."""
    body = load_object(data, _WHAT)
    verify_check(body, data, _WHAT)
    held, lease_s = body.get("held"), body.get("lease_s")
    if type(held) is not bool:
        raise CorruptObjectError(f"{_WHAT}: held is neither true nor false")
    if isinstance(lease_s, bool) or not isinstance(lease_s, int | float) or not 0 < lease_s <= MAX_LEASE_S:
        raise CorruptObjectError(f"{_WHAT}: lease_s is not a number above 0 and up to {MAX_LEASE_S:.0f}")
    return LeaseRecord(
        epoch=take_int(body, "epoch", _WHAT, high=MAX_EPOCH),
        counter=take_int(body, "counter", _WHAT),
        held=held,
        host=take_text(body, "host", _WHAT),
        pid=take_int(body, "pid", _WHAT),
        lease_s=float(lease_s),
        machine=take_text(body, "machine", _WHAT),
        lock=take_text(body, "lock", _WHAT),
        lock_id=take_text(body, "lock_id", _WHAT),
    )
