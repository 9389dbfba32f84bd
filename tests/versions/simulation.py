"""Machines that write to one store, people who tag, prune and read, over a network that loses, delays and repeats.

What they run is the product's own code: becoming the writer, committing, deciding about what is pending, tagging,
pinning, pruning, reading. The store, the clocks and all randomness are the schedule's. Every machine follows the rules
of a mount: what it captured is on its disk, a killed process is started again there, and what was captured before
another writer took over is put aside. What must be so, whatever happened, is in `promises.py`.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any
from unittest import mock

from ckptfs.errors import (
    CkptfsError,
    CondemnedError,
    CorruptObjectError,
    DivergedError,
    FencedError,
    HeldError,
    NoSuchVersionError,
    NotFoundError,
    StoreUnavailableError,
)
from ckptfs.format.commit import CommitRecord
from ckptfs.format.keys import COMMIT_PREFIX, new_pack_key, new_segment_key
from ckptfs.format.manifest import Chunk, Part
from ckptfs.fs.recovery import is_our_lineage
from ckptfs.hashing import hash_bytes
from ckptfs.versions import parts
from ckptfs.versions.history import History
from ckptfs.versions.parts import plan_parts
from ckptfs.versions.pins import pin
from ckptfs.versions.prune import Pruner
from ckptfs.versions.references import needed_packs
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry
from ckptfs.versions.tags import delete_tag, set_tag
from ckptfs.versions.writer import SaveDraft, Writer
from tests.versions.memory_store import Fault, MemoryStore
from tests.versions.promises import BrokenPromiseError, Told, check, check_no_litter, require
from tests.versions.scene import Series, chunk_file, directory, draft, holder, tree_of
from tests.versions.schedule import Killed, Schedule

FAULTS = [Fault.BEFORE, Fault.REPLY_LOST, Fault.REPLY_LOST_AND_RETRIED, Fault.LATE, Fault.TWICE]
FILES = ("a", "b", "c")
STORE_ID = "0" * 32
_DAY_NS = 86_400 * 10**9
_JUMPS_NS = (0, 0, 0, -400 * _DAY_NS, 3 * _DAY_NS, 40_000 * _DAY_NS)
"""By which a machine's wall clock is wrong from one moment to the next."""

Files = Mapping[str, Chunk]


@dataclass
class Captured:
    """A version on a machine's disk."""

    version: int
    commit_id: str
    captured_ns: int
    base: str | None
    """Commit id of the version that it was made against."""
    changed: tuple[str, ...]
    """Files whose bytes are on this disk."""
    restored: dict[str, Chunk]
    """Files that are as an older version had them."""
    is_pinned: bool
    """That version cannot be dropped before this one is saved."""


class Simulation:
    """One run.

    Args:
        seed: The run.
        store: May be one that breaks the rules, to see that it is noticed.
        fault_rate: Share of requests that the network spoils.
    """

    def __init__(self, seed: int, *, store: MemoryStore | None = None, fault_rate: float = 0.12) -> None:
        self.random = Random(seed)
        self.store = store or MemoryStore()
        self.store.objects = dict(_beginning())
        self.store.list_lag = self.random.choice([0, 0, 0, 1, 3])
        self.schedule = Schedule(self.random)
        self.told = Told()
        self._fault_rate = fault_rate
        # writers of some schedules ask once: a reply that is lost stays so, as where the next answer is a refusal
        self.patience_s = 0 if seed % 4 == 3 else 8
        self._segments = self.random.random() < 0.3
        for name in ("a", "b", "c"):
            self.schedule.add(name, Machine(self, name).run)
        self.schedule.add("tagger", self._tag)
        for number in range(2):
            self.schedule.add(f"cleaner {number}", self._clean)
        self.schedule.add("reader", Reader(self).run)

    def run(self) -> None:
        """Let everything happen, then check it. Raises BrokenPromiseError, and what a bug raises."""
        with self._as_seeded():
            self.store.before_request, self.store.faults = self._before_request, self._fault
            self.store.on_applied = self._note_applied
            try:
                self.schedule.run()
                while self.store.late:
                    self.store.deliver(self.random.randrange(len(self.store.late)))
            finally:
                self.store.before_request = lambda operation, key: None
                self.store.faults = lambda operation, key: Fault.NONE
                self.store.list_lag = 0
            check(self.store, self.told)
            self._end()

    @property
    def retry(self) -> Retry:
        return Retry(budget_s=8, clock=self.schedule.clock, sleep=self.schedule.sleep)

    def retention(self) -> Retention:
        """Return some rules."""
        rule = self.random.choice(["keep_last", "keep_last", "keep_every", "keep_daily"])
        return Retention(**{rule: self.random.randint(1, 3)})

    def pruner(self, host: str, epoch: int | None = None) -> Pruner:
        return Pruner(History(self.store, STORE_ID), self.retry, host=host, pid=1, epoch=epoch, readers=1)

    def _end(self) -> None:
        """Let two more epochs begin and end, on a network that works: what nobody needs must be gone then."""
        for number in range(3):
            Writer.acquire(
                self.store, holder("z", pid=number), takeover=True, unsafe_single_writer=not self.store.honours_create
            )
            self.pruner("z").prune(Retention(keep_last=2))
        check(self.store, self.told)
        check_no_litter(self.store, self.told)

    @contextmanager
    def _as_seeded(self) -> Iterator[None]:
        """Take ids, pauses and wall clocks from the schedule; the last jump to and fro."""
        with (
            _ids_from(self.random),
            mock.patch("random.uniform", self.random.uniform),
            mock.patch.object(time, "time_ns", self.wall_ns),
            mock.patch.object(time, "time", self._wall_s),
            mock.patch.object(parts, "MAX_INLINE_BYTES", 0 if self._segments else parts.MAX_INLINE_BYTES),
        ):
            yield

    def wall_ns(self) -> int:
        """Return what some machine's wall clock shows."""
        now_s = self.schedule.now_s
        # not drawn: whoever else asks for the time, as a log does, leaves the schedule as it is
        return 50_000 * _DAY_NS + int(now_s * 1e9) + _JUMPS_NS[int(now_s * 3) % len(_JUMPS_NS)]

    def _wall_s(self) -> float:
        return self.wall_ns() / 1e9

    def _before_request(self, operation: str, key: str) -> None:
        self.schedule.step(operation, key)
        if self.store.late and self.random.random() < 0.15:
            self.store.deliver(self.random.randrange(len(self.store.late)))

    def _fault(self, operation: str, key: str) -> Fault:
        if self.random.random() >= self._fault_rate:
            return Fault.NONE
        return self.random.choice(FAULTS)

    def _note_applied(self, operation: str, key: str) -> None:
        """Remember as of how many records an object was put, for the one who looks for litter."""
        if operation == "put":
            self.told.put_at[key] = sum(each.startswith(COMMIT_PREFIX) for each in self.store.objects)

    def _tag(self) -> None:
        unsafe = not self.store.honours_create
        for number in range(2):
            self.schedule.sleep(self.random.uniform(0, 20))
            name = f"t{number}"
            try:
                version = set_tag(self.store, name, "latest", unsafe_single_writer=unsafe, retry=self.retry)
                self.told.tagged[name] = version
                if self.random.random() < 0.3:
                    del self.told.tagged[name]
                    delete_tag(self.store, name, unsafe_single_writer=unsafe, retry=self.retry)
            except (CkptfsError, Killed):
                continue

    def _clean(self) -> None:
        """Prune now and then; whoever is killed is followed by another."""
        for _ in range(5):
            self.schedule.sleep(self.random.uniform(0, 6))
            pruner = self.pruner("cleaner")
            try:
                for _ in range(self.random.randint(1, 2)):
                    pruner.prune(self.retention())
            except StoreUnavailableError:
                continue
            except Killed:
                continue


class Machine:
    """A machine with a cache directory, on which a mount is started again and again."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.simulation = simulation
        self.random = simulation.random
        self.schedule = simulation.schedule
        self.store = simulation.store
        self.name = name
        self.session: dict[str, Any] = {}
        self.pending: list[Captured] = []
        self.mounts = 0

    def run(self) -> None:
        for _ in range(2):
            self.schedule.sleep(self.random.uniform(0, 15))
            try:
                self._mount()
            except (HeldError, StoreUnavailableError, Killed):
                pass

    def _mount(self) -> None:
        self.mounts += 1
        who = holder(self.name, pid=self.mounts)
        self.session["claims"] = [*self.session.get("claims", []), [who.host, who.pid]]
        writer = Writer.acquire(
            self.store,
            who,
            lease_s=10,
            takeover=self.random.random() < 0.5,
            unsafe_single_writer=not self.store.honours_create,
            holder_is_dead=lambda lease: lease.host == self.name,
            clock=self.schedule.clock,
            sleep=self.schedule.sleep,
            retry_budget_s=self.simulation.patience_s,
        )
        self._take_up(writer)
        self.session = {"store_id": writer.history.store_id, "epoch": writer.epoch}
        pruner = self.simulation.pruner(self.name, writer.epoch) if self.random.random() < 0.5 else None
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
                if pruner is not None:
                    self._prune(pruner)
            if self.random.random() < 0.7:
                writer.release()
        except (FencedError, DivergedError):
            self.pending.clear()

    def _take_up(self, writer: Writer) -> None:
        """Decide about what is pending, as a mount does when it begins (fs/recovery.py)."""
        if self.random.random() < 0.3:
            return  # the commit itself has to notice that history went on without us
        if not is_our_lineage(self.session, writer):
            self.pending.clear()
            return
        head = writer.head
        while self.pending and head is not None and self.pending[0].version <= head.version:
            if self.pending[0].commit_id != head.commit_id:
                self.pending.clear()
                return
            self.pending.pop(0)

    def _resume(self, writer: Writer) -> Writer:
        """Start the upload process again."""
        return Writer.resume(
            self.store,
            writer.epoch,
            holder(self.name, pid=self.mounts),
            10,
            clock=self.schedule.clock,
            sleep=self.schedule.sleep,
            retry_budget_s=self.simulation.patience_s,
        )

    def _capture(self, writer: Writer) -> None:
        head = writer.head
        newest = self.pending[-1] if self.pending else head
        version = newest.version if newest is not None else 0
        restored, is_pinned = self._restored(writer, version)
        changed = tuple(name for name in FILES if name not in restored and self.random.random() < 0.5)
        self.pending.append(
            Captured(
                version + 1,
                secrets.token_hex(16),
                self.simulation.wall_ns(),
                newest.commit_id if newest is not None else None,
                changed,
                restored,
                is_pinned,
            )
        )

    def _restored(self, writer: Writer, newest: int) -> tuple[dict[str, Chunk], bool]:
        """Return a file as an older version had it, perhaps, and whether that version is pinned."""
        # a mount waits until all is durable before it restores
        if newest < 2 or self.pending or self.random.random() < 0.5:
            return {}, False
        number = self.random.randint(1, newest - 1)
        is_pinned = self.random.random() < 0.7
        history = writer.history
        try:
            if is_pinned:
                pin(history, number, newest, self.simulation.retry, epoch=writer.epoch, host=self.name, pid=self.mounts)
            files = files_of(history, history.version(number))
        except CkptfsError:
            return {}, False
        name = self.random.choice(list(files))
        return {name: files[name]}, is_pinned

    def _upload(self, writer: Writer) -> None:
        made: SaveDraft | None = None
        was_fresh = False
        for _ in range(4):
            if not self.pending:
                return
            captured = self.pending[0]
            try:
                made = made or self._draft(writer, captured)
                if made is None:
                    self.pending.pop(0)
                    continue
                record = self._commit(writer, captured, made)
            except (StoreUnavailableError, CorruptObjectError, NoSuchVersionError):
                # the last, to one who was fenced: what was the newest version has been pruned
                if captured.version % 2 and self._newest() == captured.commit_id:
                    # an uploader that asks the store first need not commit it again, and its writer has not heard of it
                    self.pending.pop(0)
                    made = None
                continue
            except CondemnedError as error:
                require(not captured.is_pinned, f"what version {captured.version} brought back was pinned: {error}")
                if was_fresh:
                    self.pending.clear()  # its content was pruned: put aside, with all that follows
                    return
                made, was_fresh = None, True
                continue
            self.simulation.told.saved[record.commit_id] = (record.version, record.seq)
            require(record.commit_id == captured.commit_id, "a save returned another version's record")
            self.pending.pop(0)
            made = None

    def _commit(self, writer: Writer, captured: Captured, made: SaveDraft) -> CommitRecord:
        try:
            return writer.commit_save(made)
        except DivergedError as error:
            require(
                self._newest() != captured.base, f"version {captured.version} follows what history ends with: {error}"
            )
            raise

    def _newest(self) -> str | None:
        """Return the commit id of the newest version, as one sees it whom no request fails."""
        seen = MemoryStore()
        seen.objects = dict(self.simulation.store.objects)
        head = History(seen, STORE_ID).head()
        return head.commit_id if head is not None else None

    def _draft(self, writer: Writer, captured: Captured) -> SaveDraft | None:
        """Put what a version needs, as transfer/upload.py does; None if it is in history already."""
        head = writer.history.head()
        if head is not None and head.commit_id == captured.commit_id:
            return None
        if (head.version if head is not None else 0) != captured.version - 1:
            raise DivergedError("it does not follow the newest version")
        before = files_of(writer.history, head) if head is not None else {}
        put = {name: self._put(writer, before.get(name)) for name in captured.changed}
        files = {**before, **put, **captured.restored}
        return made_of(writer, captured, head, before, files, self.simulation, {chunk.pack for chunk in put.values()})

    def _put(self, writer: Writer, before: Chunk | None) -> Chunk:
        pack, content = new_pack_key(writer.epoch), self.random.randbytes(8)
        self.simulation.retry.call(lambda: self.store.put(pack, content))
        base = (before.base or before) if before is not None and self.random.random() < 0.5 else None
        return Chunk(hash_bytes(content), 8, pack, 16, 20, base)

    def _prune(self, pruner: Pruner) -> None:
        try:
            pruner.prune(self.simulation.retention())
        except StoreUnavailableError:
            pass


def made_of(
    writer: Writer,
    captured: Captured,
    head: CommitRecord | None,
    before: Files,
    files: Files,
    simulation: Simulation,
    put: set[str],
) -> SaveDraft:
    """Return the draft of a version, having put its manifest where it is too large to be inlined."""

    def put_segment(body: bytes) -> str:
        key = new_segment_key(writer.epoch)
        simulation.retry.call(lambda: simulation.store.put(key, body))
        return key

    tree = tree_of(directory(), *(chunk_file(name, chunk) for name, chunk in files.items()))
    entries = tuple(tree.values())
    refs, inline = plan_parts(head, Part(entries), lambda: tree, put_segment)
    named = needed_packs(entries)
    old = needed_packs(chunk_file(name, chunk) for name, chunk in before.items())
    simulation.told.needs[captured.commit_id, refs] = named | {ref.key for ref in refs if ref.at == "segment"}
    return replace(
        _TEMPLATE,
        version=captured.version,
        commit_id=captured.commit_id,
        captured_ns=captured.captured_ns,
        note={"base": captured.base},
        parts=refs,
        inline=inline,
        revived=frozenset(named - old - put),
    )


_TEMPLATE = draft(1)


class Reader:
    """Reads versions, as a restore or a read-only mount does."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.random = simulation.random
        self.store = simulation.store

    def run(self) -> None:
        for _ in range(4):
            self.simulation.schedule.sleep(self.random.uniform(0, 10))
            try:
                self._read(History(self.store, STORE_ID))
            except (StoreUnavailableError, NoSuchVersionError, Killed):
                continue

    def _read(self, history: History) -> None:
        numbers = self.simulation.retry.call(history.numbers)
        number = self.random.choice(numbers)
        try:
            record = self.simulation.retry.call(lambda: history.version(number))
            chunks = self.simulation.retry.call(lambda: files_of(history, record))
            for pack in sorted(needed_packs(chunk_file(name, chunk) for name, chunk in chunks.items())):
                self.simulation.retry.call(lambda key=pack: self.store.get(key))  # type: ignore[misc]
        except (NotFoundError, CorruptObjectError) as error:
            end = self.simulation.retry.call(History(self.store, STORE_ID).end)
            try:
                self.simulation.retry.call(lambda: history.version(number, newest=end))
            except NoSuchVersionError:
                return  # it was pruned meanwhile, and the reader is told
            raise BrokenPromiseError(f"version {number} is there in part: {error}") from error


def files_of(history: History, record: CommitRecord) -> dict[str, Chunk]:
    """Return the chunk of each file of a version."""
    files = {}
    for path, entry in history.tree(record).items():
        for extent in entry.extents:
            if isinstance(extent, Chunk):
                files[path.decode()] = extent
    return files


@cache
def _beginning() -> dict[str, bytes]:
    """Return the objects of a store with five versions, which its writer has given back."""
    store = MemoryStore()
    with _ids_from(Random(0)):
        writer = Writer.acquire(store, holder("z"))
        made = Series(writer)
        for fresh in (FILES, "a", "b", "ab", "c"):
            made.save(*fresh)
        writer.release()
    return store.objects


@contextmanager
def _ids_from(random: Random) -> Iterator[None]:
    with (
        mock.patch.object(secrets, "token_hex", lambda size=32: random.randbytes(size).hex()),
        mock.patch.object(secrets, "token_bytes", random.randbytes),
    ):
        yield
