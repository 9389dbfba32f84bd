"""Three machines that write to one store, one that tags and one that collects, over a network that loses and delays.

Every machine follows the rules of a mount: what it captured is on its disk, a killed process is started again there,
and what was captured before another writer took over is put aside. What the store must then look like, whatever
happened, is in `check`.
"""

import random as global_random
import secrets
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from ckptfs.errors import (
    CkptfsError,
    CondemnedError,
    DivergedError,
    FencedError,
    HeldError,
    NoSuchVersionError,
    StoreUnavailableError,
)
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import new_pack_key
from ckptfs.format.lease import LeaseRecord
from ckptfs.versions.append import append, successor
from ckptfs.versions.chain import check_successor
from ckptfs.versions.history import History
from ckptfs.versions.ranges import contains
from ckptfs.versions.retry import Retry
from ckptfs.versions.tags import set_tag
from ckptfs.versions.writer import SaveDraft, Writer
from tests.versions.memory_store import Fault, MemoryStore
from tests.versions.scene import draft, holder
from tests.versions.schedule import Killed, Schedule

FAULTS = [Fault.BEFORE, Fault.REPLY_LOST, Fault.REPLY_LOST_AND_RETRIED, Fault.LATE, Fault.TWICE]
TEMPLATE = draft(1)


def _beginning() -> dict[str, bytes]:
    """Return the objects of a store with five versions, which its writer has given back."""
    store = MemoryStore()
    writer = Writer.acquire(store, holder("z"))
    base = None
    for version in range(1, 6):
        commit_id = secrets.token_hex(16)
        note = {"base": base, "packs": [new_pack_key(writer.epoch)]}
        writer.commit_save(replace(TEMPLATE, version=version, commit_id=commit_id, note=note))
        base = commit_id
    writer.release()
    return store.objects


BEGINNING = _beginning()


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


def require(holds: bool, fact: str) -> None:
    if not holds:
        raise BrokenPromiseError(fact)


@dataclass
class Told:
    """What users were told: it must be so in the end."""

    saved: dict[str, tuple[int, int]] = field(default_factory=dict)
    """commit_id to version and seq."""
    tagged: dict[str, int] = field(default_factory=dict)


class Simulation:
    """One run.

    Args:
        seed: The run.
        store: May be one that breaks the rules, to see that it is noticed.
        fault_rate: Share of requests that the network spoils.
    """

    def __init__(self, seed: int, *, store: MemoryStore | None = None, fault_rate: float = 0.12) -> None:
        self.random = Random(seed)
        global_random.seed(seed)  # for the pauses between attempts
        self.store = store or MemoryStore()
        self.store.objects = dict(BEGINNING)
        self.store.list_lag = self.random.choice([0, 0, 0, 1, 3])
        self.schedule = Schedule(self.random)
        self.told = Told()
        self._fault_rate = fault_rate
        self.store.before_request = self._before_request
        self.store.faults = self._fault
        for name in ("a", "b", "c"):
            self.schedule.add(name, Machine(self, name).run)
        self.schedule.add("tagger", self._tag)
        self.schedule.add("collector", Collector(self).run)

    def run(self) -> None:
        """Let everything happen, then check it."""
        self.schedule.run()
        while self.store.late:
            self.store.deliver(self.random.randrange(len(self.store.late)))
        self.store.before_request = lambda operation, key: None
        self.store.faults = lambda operation, key: Fault.NONE
        self.store.list_lag = 0
        check(self.store, self.told)

    @property
    def retry(self) -> Retry:
        return Retry(budget_s=8, clock=self.schedule.clock, sleep=self.schedule.sleep)

    def _before_request(self, operation: str, key: str) -> None:
        self.schedule.step(operation, key)
        if self.store.late and self.random.random() < 0.15:
            self.store.deliver(self.random.randrange(len(self.store.late)))

    def _fault(self, operation: str, key: str) -> Fault:
        if self.random.random() >= self._fault_rate:
            return Fault.NONE
        return self.random.choice(FAULTS)

    def _tag(self) -> None:
        for number in range(2):
            self.schedule.sleep(self.random.uniform(0, 20))
            try:
                name = f"t{number}"
                unsafe = not self.store.honours_create
                self.told.tagged[name] = set_tag(
                    self.store, name, "latest", unsafe_single_writer=unsafe, retry=self.retry
                )
            except (CkptfsError, Killed):
                continue


class Collector:
    """Drops versions that are neither tagged nor the newest, and condemns the packs that only they name."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.random = simulation.random
        self.history = History(simulation.store, "")

    def run(self) -> None:
        for _ in range(8):  # most attempts meet a request that fails
            self.simulation.schedule.sleep(self.random.uniform(0, 4))
            commit_id = secrets.token_hex(16)
            try:
                append(self.history, self.history.newest(), partial(self._build, commit_id), self.simulation.retry)
            except CkptfsError:
                continue
            except Killed:
                return

    def _build(self, commit_id: str, newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        history = self.history
        head = history.head(newest=newest)
        if newest is None or head is None:
            raise NoSuchVersionError("nothing to collect")
        dropped = dict(history.dropped(newest=newest))
        records = [history.record(seq) for seq in range(1, newest.seq + 1)]
        living = [record for record in records if record.kind is CommitKind.SAVE and record.version not in dropped]
        kept = {*history.tags(newest=newest).values(), head.version}
        doomed = [record for record in living if record.version not in kept and self.random.random() < 0.3]
        if not doomed:
            raise NoSuchVersionError("nothing to collect")
        named = {pack for record in living if record not in doomed for pack in packs_of(record)}
        condemned = {pack for record in doomed for pack in packs_of(record)} - named
        ranges = sorted({**dropped, **{record.version: record.version for record in doomed}}.items())
        record = successor(newest, CommitKind.GC, commit_id, host="collector", pid=1)
        return replace(record, dropped=tuple(ranges), condemned=tuple(sorted(condemned))), b""


class Machine:
    """A machine with a cache directory, on which a mount is started again and again."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.simulation = simulation
        self.random = simulation.random
        self.schedule = simulation.schedule
        self.name = name
        self.epoch = 0
        self.pending: list[SaveDraft] = []

    def run(self) -> None:
        for _ in range(2):
            self.schedule.sleep(self.random.uniform(0, 15))
            try:
                self._mount()
            except (HeldError, StoreUnavailableError, Killed):
                pass

    def _mount(self) -> None:
        writer = Writer.acquire(
            self.simulation.store,
            holder(self.name),
            lease_s=10,
            takeover=self.random.random() < 0.5,
            unsafe_single_writer=not self.simulation.store.honours_create,
            holder_is_dead=self._is_own,
            clock=self.schedule.clock,
            sleep=self.schedule.sleep,
            retry_budget_s=8,
        )
        if writer.epoch != self.epoch + 1 and self.random.random() < 0.5:
            # the other half of the time the commit itself has to notice that history went on without us
            self.pending.clear()
        self.epoch = writer.epoch
        try:
            for _ in range(self.random.randint(1, 3)):
                if self.random.random() < 0.5:
                    writer.renew()
                self._capture(writer)
                if self.random.random() < 0.3:
                    self.schedule.sleep(self.random.uniform(0, 10))
                if self.random.random() < 0.2:
                    writer = self._resume(writer)
                self._upload(writer)
            if self.random.random() < 0.7:
                writer.release()
        except (FencedError, DivergedError):
            self.pending.clear()

    def _is_own(self, lease: LeaseRecord) -> bool:
        return lease.host == self.name

    def _resume(self, writer: Writer) -> Writer:
        """Start the upload process again."""
        return Writer.resume(
            self.simulation.store,
            writer.epoch,
            holder(self.name),
            10,
            clock=self.schedule.clock,
            sleep=self.schedule.sleep,
            retry_budget_s=8,
        )

    def _capture(self, writer: Writer) -> None:
        head = writer.head
        base = self.pending[-1] if self.pending else head
        packs = [new_pack_key(writer.epoch)]
        if head is not None and self.random.random() < 0.4:
            packs.append(self.random.choice(packs_of(head)))  # unchanged data
        if head is not None and self.random.random() < 0.4:
            packs.append(self._restored(writer, head))
        note: dict[str, Any] = {"base": base.commit_id if base is not None else None, "packs": packs}
        version = base.version + 1 if base is not None else 1
        named = frozenset(packs) - set(packs_of(head) if head is not None else [])
        self.pending.append(
            replace(TEMPLATE, version=version, commit_id=secrets.token_hex(16), note=note, revived=named)
        )

    def _restored(self, writer: Writer, head: CommitRecord) -> str:
        """Return a pack of an older version."""
        try:
            return self.random.choice(packs_of(writer.history.version(self.random.randint(1, head.version))))
        except NoSuchVersionError:
            return packs_of(head)[0]

    def _upload(self, writer: Writer) -> None:
        for _ in range(3):
            if not self.pending:
                return
            made = self.pending[0]
            try:
                record = writer.commit_save(made)
            except StoreUnavailableError:
                continue
            except CondemnedError:
                fresh = {**note_of(made), "packs": [new_pack_key(writer.epoch)]}
                self.pending[0] = replace(made, note=fresh, revived=frozenset())
                continue
            self.simulation.told.saved[record.commit_id] = (record.version, record.seq)
            require(record.commit_id == made.commit_id, "a save returned another version's record")
            self.pending.pop(0)


def note_of(version: CommitRecord | SaveDraft) -> dict[str, Any]:
    if not isinstance(version.note, dict):
        raise BrokenPromiseError(f"{version} is not the record of a version")
    return version.note


def packs_of(version: CommitRecord) -> list[str]:
    packs: list[str] = note_of(version)["packs"]
    return packs


def check(store: MemoryStore, told: Told) -> None:
    """Raise BrokenPromiseError unless history is as it must be."""
    history = History(store, "")
    newest = history.newest()
    records = [history.record(seq) for seq in range(1, newest.seq + 1)] if newest is not None else []
    for before, record in zip([None, *records], records, strict=False):
        try:
            check_successor(before, record)
        except CkptfsError as error:
            raise BrokenPromiseError(str(error)) from error
    repeated = [commit_id for commit_id, count in Counter(record.commit_id for record in records).items() if count > 1]
    require(not repeated, f"records committed twice: {repeated}")
    check_saves([record for record in records if record.kind is CommitKind.SAVE], records, told)
    dropped = history.dropped()
    for name, version in history.tags().items():
        require(not contains(dropped, version), f"tag {name} names version {version}, which was dropped")
    for name, version in told.tagged.items():
        require(history.tags().get(name) == version, f"tag {name} of version {version} is lost")


def check_saves(saves: list[CommitRecord], records: list[CommitRecord], told: Told) -> None:
    by_id = {record.commit_id: record for record in saves}
    for commit_id, (version, seq) in told.saved.items():
        record = by_id.get(commit_id)
        require(record is not None, f"acknowledged version {version} (commit {seq}) is lost")
        require(record is None or (record.version, record.seq) == (version, seq), f"version {version} has moved")
    owner = {record.epoch: record.host for record in records if record.kind is CommitKind.FENCE}
    previous: CommitRecord | None = None
    for record in saves:
        require(record.host == owner[record.epoch], f"{record.host} committed {record.version} after it was fenced")
        first = previous.version + 1 if previous is not None else 1
        skipped = range(first, record.version)
        require(all(contains(record.gaps, number) for number in skipped), f"numbers {skipped} are missing")
        base = previous.commit_id if previous is not None else None
        require(note_of(record)["base"] == base, f"version {record.version} was made against another version")
        previous = record
    condemned: set[str] = set()
    for record in records:
        condemned.update(record.condemned)
        if record.kind is CommitKind.SAVE:
            require(condemned.isdisjoint(packs_of(record)), f"version {record.version} names a condemned pack")
