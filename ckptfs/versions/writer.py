"""The one writer of a store: it commits versions, and finds out that it has been fenced.

    W1  a record of a higher epoch anywhere after ours means that we are fenced, for good
    W2  a version is committed once: its commit_id, chosen when it was captured, tells whether it is in history already
    W3  a version is committed only on top of the version that its changes were made against
    W4  no version names an object that a collection has condemned: a collection is a record, so the race to create the
        next one makes us read it first
    W5  where the store was put back to a state from before our newest record, nothing is committed: history would have
        a hole. The lease, which is read anyway, shows it: it is not what we left there

A Writer is safe for use by several threads: one may renew the lease while another commits.
"""

import builtins
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ckptfs.errors import (
    CondemnedError,
    CorruptObjectError,
    DivergedError,
    FencedError,
    NoSuchVersionError,
    RollbackError,
)
from ckptfs.format.commit import CommitKind, CommitRecord, PartRef
from ckptfs.format.keys import commit_key
from ckptfs.format.lease import LeaseRecord
from ckptfs.format.note import Note
from ckptfs.store.base import Store
from ckptfs.versions import ranges
from ckptfs.versions.acquire import Claim, acquire_epoch
from ckptfs.versions.append import append, epoch_of, successor
from ckptfs.versions.chain import check_successor
from ckptfs.versions.condemned import Condemned
from ckptfs.versions.create import ensure_format, ensure_safe
from ckptfs.versions.history import History, history_of, open_history
from ckptfs.versions.leasing import Holder, read_lease, write_lease
from ckptfs.versions.opening import PLAIN, Access
from ckptfs.versions.retry import Retry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveDraft:
    """A version whose objects are all in the store, ready to be committed."""

    version: int
    commit_id: str
    """Chosen when it was captured (W2)."""
    captured_ns: int
    note: Note
    files: int
    bytes: int
    bytes_added: int
    torn: int
    parts: tuple[PartRef, ...]
    inline: builtins.bytes
    """Stored bytes of the inline parts, one after another."""
    base: int | None = None
    """The version that the changes were made against, None for the one before by number. The numbers between the two
    become gaps."""
    revived: frozenset[str] = frozenset()
    """Keys of the packs that this version names, and neither its base does nor this writer has put for it: those of an
    older version (W4). Segments are in `parts`."""

    @property
    def before(self) -> int:
        """The version that the changes were made against; 0 if none."""
        return self.version - 1 if self.base is None else self.base


def _unknown(_: LeaseRecord | CommitRecord) -> bool:
    return False


def _say_nothing(_: str) -> None:
    return None


class Writer:
    """The holder of one epoch of a store. Made by `acquire` (a new epoch) or `resume` (one that is already ours)."""

    def __init__(self, history: History, newest: CommitRecord, holder: Holder, lease_s: float, retry: Retry) -> None:
        self.history = history
        self.epoch = newest.epoch
        self.lease_s = lease_s
        self._holder = holder
        self._retry = retry
        # a renewal that takes longer than the time to the next one helps nobody
        self._lease_retry = replace(retry, budget_s=min(retry.budget_s, lease_s / 3))
        self._newest = newest
        self._fenced: str | None = None
        self._is_put_back = False
        """Our newest record was not in the store when it was last looked for."""
        self._condemned = Condemned(history)
        self._counter = 0
        self._commit_lock = threading.Lock()
        self._lease_lock = threading.Lock()

    @classmethod
    def acquire(
        cls,
        store: Store,
        holder: Holder,
        *,
        lease_s: float = 30.0,
        takeover: bool = False,
        unsafe_single_writer: bool = False,
        access: Access = PLAIN,
        holder_is_dead: Callable[[LeaseRecord], bool] = _unknown,
        holder_is_alive: Callable[[LeaseRecord], bool] = _unknown,
        maker_is_dead: Callable[[CommitRecord], bool] = _unknown,
        on_wait: Callable[[str], None] = _say_nothing,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        retry_budget_s: float = 30.0,
    ) -> "Writer":
        """Make a place a store if it is none yet, and become its one writer.

        Args:
            store: Where.
            holder: Who we are.
            lease_s: How long we may be silent before we count as dead.
            takeover: Fence the present holder without waiting.
            unsafe_single_writer: Go on although the store may ignore create-only.
            access: What we have to open the store.
            holder_is_dead: Tells, at once and for certain, that a holder on this machine is dead.
            holder_is_alive: Tells, at once and for certain, that a holder on this machine is alive.
            maker_is_dead: Tells, at once and for certain, that who made a record is dead.
            on_wait: Called with a line for the user before waiting.
            clock: Monotonic, in seconds.
            sleep: Waits that clock's seconds.
            retry_budget_s: How long one request of unknown outcome is sent again.

        Raises:
            HeldError: A live holder has the store.
            InvalidInputError: The place holds something else, or is not encrypted although it should be.
            KeyMissingError: It is, or is to be, encrypted, and no key was given, or another.
            UnsupportedFormatError: A newer ckptfs made the store.
            UnsafeStoreError: The store ignores create-only.
        """
        retry = Retry(budget_s=retry_budget_s, clock=clock, sleep=sleep)
        history = history_of(store, ensure_format(store, retry, access), access)
        ensure_safe(store, retry, unsafe_single_writer=unsafe_single_writer)
        claim = Claim(
            holder=holder,
            lease_s=lease_s,
            takeover=takeover,
            holder_is_dead=holder_is_dead,
            holder_is_alive=holder_is_alive,
            maker_is_dead=maker_is_dead,
            on_wait=on_wait,
        )
        fence = acquire_epoch(history, claim, retry)
        writer = cls(history, fence, holder, lease_s, retry)
        writer._write_lease(None, held=True)
        return writer

    @classmethod
    def resume(
        cls,
        store: Store,
        epoch: int,
        holder: Holder,
        lease_s: float = 30.0,
        *,
        access: Access = PLAIN,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        retry_budget_s: float = 30.0,
    ) -> "Writer":
        """Go on as the writer of an epoch that another process of ours acquired. Writes nothing.

        Raises:
            FencedError: Another writer has taken the store over.
            CorruptObjectError: History ends before our epoch began: commit records are missing.
        """
        history = open_history(store, access)
        retry = Retry(budget_s=retry_budget_s, clock=clock, sleep=sleep)
        newest = retry.call(history.end)
        if newest is None or newest.epoch < epoch:
            seen = "no commit record" if newest is None else f"{commit_key(newest.seq)} of epoch {newest.epoch}"
            raise CorruptObjectError(f"history of {store.url} ends at {seen}, before our epoch {epoch} began")
        if newest.epoch > epoch:
            raise FencedError(_taken_over(newest.host, newest.pid, newest.epoch, epoch, store.url))
        return cls(history, newest, holder, lease_s, retry)

    @property
    def holder(self) -> Holder:
        """Who writes."""
        return self._holder

    @property
    def newest(self) -> CommitRecord:
        """The newest record that this writer knows. Others may have tagged or pruned since."""
        return self._newest

    @property
    def head(self) -> CommitRecord | None:
        """The save record of the newest version, None if there is none. Until we are fenced nobody else makes any."""
        return self.history.head(newest=self._newest)

    @property
    def is_fenced(self) -> bool:
        """True once this writer has found out that it is fenced."""
        return self._fenced is not None

    def commit_save(self, draft: SaveDraft) -> CommitRecord:
        """Commit a version, or find that it is committed.

        Returns:
            Its record as it is in the store. It may be that of an earlier attempt, which named other objects.

        Raises:
            FencedError: Another writer has taken the store over.
            DivergedError: The version's base is not the newest version (W3).
            CondemnedError: It names an object that has been condemned (W4).
            RollbackError: The store was put back to an older state, as far as a renewal has noticed (W5).
            StoreUnavailableError: It is not known whether the version is committed. Call again with the same commit_id.
        """
        with self._commit_lock:
            known = self._committed(draft)
            if known is None and self._fenced is not None:
                known = self._overlooked(draft)
                if known is None:
                    raise FencedError(self._fenced)
            if known is not None:
                return known
            if self._is_put_back:
                self._require_newest()
            if draft.before > self._newest.version:
                # whoever made it has read of a version that we know nothing of: an attempt's, whose reply was lost
                self._catch_up()

            def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
                return self._build(draft, newest), draft.inline

            record = append(self.history, self._newest, build, self._retry)
            self._newest = record
            return record

    def meet(self, record: CommitRecord) -> None:
        """Take note of a record that was just appended to history: the next commit need not lose the race against it.

        It would have put its own record once in vain, inline manifest and all.
        """
        with self._commit_lock:
            if record.seq == self._newest.seq + 1 and record.epoch == self.epoch:
                self._newest = record

    def renew(self) -> None:
        """Give a sign of life. Call it every third of the lease. One GET and one PUT.

        Raises:
            FencedError: The lease is that of a later epoch.
            RollbackError: The store was put back to an older state (W5).
            StoreUnavailableError: It did not succeed within a third of the lease; the next call may.
        """
        with self._lease_lock:
            lease = self._own_lease()
            if self._is_put_back or (lease.counter if lease is not None else 0) < self._counter:
                # also after a renewal whose outcome is not known: one request more
                self._require_newest()
            if lease is None or lease.held:
                # one that was given back stays so: the mount process may release while we still live
                self._write_lease(lease, held=True)

    def release(self) -> None:
        """Give the store back: the next writer need not wait. No error if it is no longer ours.

        Raises:
            StoreUnavailableError: It did not succeed within a third of the lease: the next writer has to wait.
        """
        with self._lease_lock:
            try:
                lease = self._own_lease()
            except FencedError:
                return
            self._write_lease(lease, held=False)

    def _committed(self, draft: SaveDraft) -> CommitRecord | None:
        """Return the record of a draft that is in history as far as we know it (W2)."""
        if draft.version > self._newest.version:
            return None
        try:
            record = self.history.version(draft.version, newest=self._newest)
        except NoSuchVersionError:
            record = None
        if record is None or record.commit_id != draft.commit_id:
            raise self._diverged(draft, self._newest)
        return record

    def _overlooked(self, draft: SaveDraft) -> CommitRecord | None:
        """Return the record of a draft that entered history before the fence, by an attempt whose reply was lost."""
        seq = self._newest.seq + 1
        while (record := self.history.probe(seq)) is not None and record.epoch == self.epoch:
            if record.commit_id == draft.commit_id:
                return record
            seq += 1
        return None

    def _build(self, draft: SaveDraft, newest: CommitRecord | None) -> CommitRecord:
        if newest is None:
            raise CorruptObjectError(f"history of {self.history.store.url} has no fence of epoch {self.epoch}")
        self._step_over(newest)
        base = draft.before
        if newest.version != base or draft.version <= base:
            raise self._diverged(draft, newest)
        named = draft.revived | {part.key for part in draft.parts if part.at == "segment"}
        condemned = self._condemned.among(named, newest)
        if condemned:
            raise CondemnedError(f"version {draft.version} names condemned objects: {', '.join(condemned[:3])}")
        record = successor(newest, CommitKind.SAVE, draft.commit_id, host=self._holder.host, pid=self._holder.pid)
        return replace(
            record,
            version=draft.version,
            gaps=ranges.union(newest.gaps, [(base + 1, draft.version - 1)]),
            captured_ns=draft.captured_ns,
            note=draft.note,
            files=draft.files,
            bytes=draft.bytes,
            bytes_added=draft.bytes_added,
            torn=draft.torn,
            parts=draft.parts,
            revived=tuple(sorted(draft.revived)),
            revival=record.seq if draft.revived else record.revival,
            pins=tuple((pinned, base) for pinned, base in newest.pins if base >= draft.version),
        )

    def _catch_up(self) -> None:
        """Take note of all records that follow the newest that we know. A GET for each, and one."""
        while (record := self._retry.call(lambda: self.history.probe(self._newest.seq + 1))) is not None:
            check_successor(self._newest, record)
            self._step_over(record)

    def _step_over(self, newest: CommitRecord) -> None:
        """Take note of a record that is now the newest we know; raise FencedError if it shuts us out (W1)."""
        if newest.epoch > self.epoch:
            self._fence(newest.host, newest.pid, newest.epoch)
        self._newest = newest

    def _require_newest(self) -> None:
        """Raise RollbackError if the newest record that we know is not in the store. One GET."""
        newest = self._newest
        self._is_put_back = not self.history.still_has(newest)
        if self._is_put_back:
            raise RollbackError(
                f"commit {newest.seq} of {self.history.store.url}, which this writer has made or seen, "
                "is not there any more"
            )

    def _own_lease(self) -> LeaseRecord | None:
        """Return the lease of our epoch, None if there is none. Raises FencedError if there is a later one (W1)."""
        lease = read_lease(self.history.store, self._lease_retry)
        if lease is None or lease.epoch < self.epoch:
            return None
        if lease.epoch > self.epoch:
            self._believe(lease)
            return None
        return lease

    def _believe(self, lease: LeaseRecord) -> None:
        """Raise FencedError if history has the epoch of a lease, which alone fences nobody."""
        newest = self._lease_retry.call(self.history.end)
        if epoch_of(newest) >= lease.epoch:
            self._fence(lease.host, lease.pid, lease.epoch)
        log.warning("ignored a lease epoch=%d: history ends with epoch=%d", lease.epoch, epoch_of(newest))

    def _write_lease(self, before: LeaseRecord | None, *, held: bool) -> None:
        # another process of ours may have renewed since: the counter must not fall (leasing.L2)
        self._counter = max(self._counter, before.counter if before is not None else 0) + 1
        lease = self._holder.lease(self.epoch, self._counter, self.lease_s, held=held)
        write_lease(self.history.store, lease, self._lease_retry)

    def _fence(self, host: str, pid: int, epoch: int) -> None:
        self._fenced = _taken_over(host, pid, epoch, self.epoch, self.history.store.url)
        raise FencedError(self._fenced)

    def _diverged(self, draft: SaveDraft, newest: CommitRecord) -> DivergedError:
        base = "the version before" if draft.base is None else f"version {draft.base}"
        return DivergedError(
            f"version {draft.version} (commit {draft.commit_id}) is built on {base}, "
            f"but the newest version of {self.history.store.url} is {newest.version}, by {newest.host}"
        )


def _taken_over(host: str, pid: int, epoch: int, own_epoch: int, url: str) -> str:
    return f"{url} was taken over by {host} (pid {pid}, epoch {epoch}); this writer's epoch was {own_epoch}"
