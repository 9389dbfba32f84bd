"""Pins: versions that a live tree has been restored to, and that must not be dropped until what came of it is saved.

After `.restore` the live tree is made of the old version's chunks, most of them not fetched yet, and so is the version
that is captured next. A pin stands in the newest record, as tags do (docs/adr/0001): whoever prunes has read it, or
loses the race to the record that has it. It is over with the first version above the one that was restored upon; so
nobody has to take it away, and a mount that never comes back pins nothing for longer than the next save of anybody.
"""

import secrets
from dataclasses import replace

from ckptfs.errors import CkptfsError, FencedError, NoSuchVersionError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.versions.append import append, successor
from ckptfs.versions.history import History
from ckptfs.versions.retry import Retry


class _PinnedError(CkptfsError):
    """The pin is there already. Never leaves this module."""


def pin(history: History, version: int, base: int, retry: Retry, *, epoch: int, host: str, pid: int) -> None:
    """Keep a version from being dropped while the newest one is not above a base.

    Args:
        epoch: The writer's.

    Raises:
        NoSuchVersionError: It has been dropped.
        FencedError: The epoch is over. A pin of it could not hold: whoever took over may prune what it is to keep, and
            a later mount with the same cache directory may still save what was restored here.
        StoreError: The store failed; it may be pinned or not.
    """
    commit_id = secrets.token_hex(16)

    def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        if newest is None:
            raise NoSuchVersionError(f"{history.store.url} has no version yet")
        history.version(version, newest=newest)
        if newest.epoch != epoch:
            where, who = history.store.url, f"{newest.host} (epoch {newest.epoch})"
            raise FencedError(f"{where} was taken over by {who}; this writer's epoch was {epoch}")
        if newest.version > base or (version, base) in newest.pins:
            raise _PinnedError("there is nothing to pin")
        record = successor(newest, CommitKind.TAG, commit_id, host=host, pid=pid)
        return replace(record, tag_map=history.tags(newest=newest), pins=(*newest.pins, (version, base))), b""

    try:
        append(history, retry.call(history.end), build, retry)
    except _PinnedError:
        pass  # it needs no pin, or has one
