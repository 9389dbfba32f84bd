"""Dropping versions, and deleting what only they needed.

Rules:
    G1  versions are dropped and objects condemned by one gc record; nothing is deleted before that record exists. So a
        reader sees a version whole or not at all, and whoever dies in between has lost nothing
    G2  as of the record before the gc record, the newest version, tagged ones and those in use (pins.py) are left. It
        is created as every record is: who loses the race decides anew
    G3  condemned is what no version that is left needs: of the objects of dropped versions, and of those that no
        version ever named only what was put in earlier epochs, for their writers can never commit again
    G4  a gc record is created only when all that the one before it condemned is deleted: so whatever was interrupted,
        the newest gc record has all that is left to be done
    What is to be condemned is decided in collection.py.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from ckptfs.errors import CkptfsError, CorruptObjectError, FencedError, StoreUnavailableError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.versions import ranges
from ckptfs.versions.append import append, successor
from ckptfs.versions.collection import Collection, Collector
from ckptfs.versions.history import History
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry

_DELETE_KEYS = 1000
"""Deleted by one request of S3."""
_MAX_ROUNDS = 1000
"""Records that one call creates, or loses to another who prunes."""


@dataclass(slots=True, kw_only=True)
class Pruned:
    """What was done, or would be."""

    dropped: list[int] = field(default_factory=list)
    """Versions, ascending."""
    kept: int = 0
    """Versions that are left."""
    objects: int = 0
    """Deleted."""
    size_bytes: int = 0
    """Of those, as far as it is known without asking for each."""
    orphans: int = 0
    """Of the objects, how many no version had named."""
    damaged: list[int] = field(default_factory=list)
    """Dropped versions whose manifest could not be read: what only they needed is found later, as orphans."""

    record: CommitRecord | None = None
    """The last one that was created, if any."""

    def add(self, plan: Collection) -> None:
        """Add what one record says."""
        self.dropped += plan.dropped
        self.kept = plan.kept
        self.objects += len(plan.condemned)
        self.size_bytes += sum(plan.condemned.values())
        self.orphans += plan.orphans
        self.damaged += plan.damaged


class _OutrunError(CkptfsError):
    """Somebody else has pruned meanwhile, or there is nothing to do any more. Never leaves this module."""


class Pruner:
    """Prunes one store, time and again. Used by one thread.

    Args:
        history: Of the store.
        retry: For requests that the store does not answer.
        host, pid: Who prunes.
        epoch: If given, it stops with FencedError when the store is another writer's.
        on_progress: Told of versions looked at, and how many there are to look at.
        readers: Threads that read records ahead.
    """

    def __init__(
        self,
        history: History,
        retry: Retry,
        *,
        host: str,
        pid: int,
        epoch: int | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        readers: int = 16,
    ) -> None:
        self._history = history
        self._retry = retry
        self._host = host
        self._pid = pid
        self._epoch = epoch
        self._on_progress = on_progress
        self._collector = Collector(history, retry, on_progress, readers=readers)
        self._finished = 0
        """Seq of the gc record all of whose objects are known to be deleted."""

    def prune(self, retention: Retention) -> Pruned:
        """Drop what the rules do not keep, and delete what no version needs; finish what an earlier one left.

        Raises:
            CorruptObjectError: The manifest of a version that is left is damaged: what it needs cannot be known.
            FencedError: The store is another writer's now.
            StoreError: The store failed. What is done is done; the next call goes on.
        """
        done = Pruned()
        for _ in range(_MAX_ROUNDS):
            newest = self._retry.call(self._history.end)
            if newest is None:
                return done
            self._check_epoch(newest)
            self._finish(newest)
            try:
                plan = self._plan(retention, newest)
                done.kept = plan.kept
                if plan.is_empty:
                    return done
                plan, record = self._commit(retention, plan)
            except _OutrunError:
                continue  # somebody else has written meanwhile: look again
            done.record = record
            self._finish(record)
            self._collector.collected()
            done.add(plan)
        raise self._outrun_for_good()

    def preview(self, retention: Retention) -> Pruned:
        """Return what `prune` would do. Changes nothing."""
        done = Pruned()
        for _ in range(_MAX_ROUNDS):
            newest = self._retry.call(self._history.end)
            if newest is None:
                return done
            try:
                done.add(self._plan(retention, newest, at_once=True))
            except _OutrunError:
                continue  # as above
            return done
        raise self._outrun_for_good()

    def _plan(self, retention: Retention, newest: CommitRecord, *, at_once: bool = False) -> Collection:
        """Return what can be collected as of a record, if nobody else has just collected what that has to look at."""
        try:
            return self._collector.plan(retention, newest, at_once=at_once)
        except CorruptObjectError as error:
            end = self._retry.call(self._history.end)
            if end is not None and end.gc != newest.gc:
                raise _OutrunError("somebody else has pruned") from error
            raise

    def _outrun_for_good(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self._history.store.url} was pruned {_MAX_ROUNDS} times meanwhile")

    def _commit(self, retention: Retention, first: Collection) -> tuple[Collection, CommitRecord]:
        """Create the gc record of a plan, or of a newer one if history has gone on; return both."""
        commit_id = secrets.token_hex(16)
        plans = {first.newest.seq: first}

        def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
            if newest is None or newest.gc != first.newest.gc:
                raise _OutrunError("somebody else has pruned")
            self._check_epoch(newest)
            plan = plans.get(newest.seq) or self._plan(retention, newest)
            plans[newest.seq] = plan
            if plan.is_empty:
                raise _OutrunError("there is nothing to do any more")
            dropped = self._history.dropped(newest=newest)
            record = successor(newest, CommitKind.GC, commit_id, host=self._host, pid=self._pid)
            return replace(
                record,
                condemned=tuple(sorted(plan.condemned)),
                dropped=ranges.union(dropped, ((number, number) for number in plan.dropped)),
                swept=plan.swept,
            ), b""

        record = append(self._history, first.newest, build, self._retry)
        return plans[record.seq - 1], record

    def _check_epoch(self, newest: CommitRecord) -> None:
        if self._epoch is not None and newest.epoch != self._epoch:
            url = self._history.store.url
            raise FencedError(f"{url} was taken over by {newest.host} in epoch {newest.epoch}; ours was {self._epoch}")

    def _finish(self, newest: CommitRecord) -> None:
        """Delete what the newest gc record condemned (G4)."""
        if newest.gc == self._finished:
            return
        condemned = self._retry.call(lambda: self._history.record(newest.gc)).condemned
        for start in range(0, len(condemned), _DELETE_KEYS):
            batch = condemned[start : start + _DELETE_KEYS]
            self._retry.call(partial(self._history.store.delete_many, batch))
        self._finished = newest.gc
