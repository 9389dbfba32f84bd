"""What the tests of this layer are made of: holders, clocks, small trees, and versions to commit."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import new_segment_key
from ckptfs.format.manifest import Chunk, Entry, Kind, Part, Tree, merge
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.versions.append import append, successor
from ckptfs.versions.history import History, open_history
from ckptfs.versions.leasing import Holder
from ckptfs.versions.parts import plan_parts
from ckptfs.versions.retry import Retry
from ckptfs.versions.writer import SaveDraft, Writer

PACK = "p/0000000001-" + "0" * 32


@dataclass
class FakeClock:
    """Time that passes only when somebody sleeps."""

    now_s: float = 0.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def retry(self, budget_s: float = 30.0) -> Retry:
        return Retry(budget_s=budget_s, clock=self.clock, sleep=self.sleep)


def holder(host: str = "gpu-07", *, pid: int = 4121, machine: str | None = None) -> Holder:
    return Holder(host=host, pid=pid, machine=machine or f"boot-of-{host}", lock="/cache/lock", lock_id="8:1")


def acquire(store: Store, host: str = "gpu-07", *, time: FakeClock | None = None, takeover: bool = False) -> Writer:
    """Become the writer, on a clock that no test waits for."""
    time = time or FakeClock()
    return Writer.acquire(store, holder(host), takeover=takeover, clock=time.clock, sleep=time.sleep)


def resume(store: Store, epoch: int, host: str = "gpu-07", *, time: FakeClock | None = None) -> Writer:
    time = time or FakeClock()
    return Writer.resume(store, epoch, holder(host), clock=time.clock, sleep=time.sleep)


def file(path: str, content: bytes = b"x", *, mode: int = 0o644) -> Entry:
    """A file of one chunk, which is said to be in PACK."""
    chunk = Chunk(hash_bytes(content), len(content), PACK, 16, len(content) + 12)
    return Entry(path=path.encode(), kind=Kind.FILE, mode=mode, size_bytes=len(content), extents=(chunk,))


def directory(path: str = "") -> Entry:
    return Entry(path=path.encode(), kind=Kind.DIRECTORY, mode=0o755)


def part(*entries: Entry, removed: Sequence[str] = ()) -> Part:
    ordered = sorted(entries, key=lambda entry: entry.path)
    return Part(tuple(ordered), tuple(sorted(path.encode() for path in removed)))


def tree_of(*entries: Entry) -> Tree:
    return merge([part(*entries)])


def draft(version: int, *, previous: CommitRecord | None = None, tree: Tree | None = None) -> SaveDraft:
    """A version that holds a whole small tree, inline."""
    tree = tree or tree_of(directory(), file("step", str(version).encode()))
    parts, inline = plan_parts(previous, Part(tuple(tree.values())), lambda: tree, lambda _: new_segment_key())
    return SaveDraft(
        version=version,
        commit_id=secrets.token_hex(16),
        captured_ns=version,
        note={"step": version},
        files=1,
        bytes=1,
        bytes_added=0,
        torn=0,
        parts=parts,
        inline=inline,
    )


def save(writer: Writer, count: int = 1) -> CommitRecord:
    """Commit the next versions; return the last one's record."""
    for _ in range(count):
        record = writer.commit_save(draft(writer.newest.version + 1))
    return record


def collect(store: Store, *, dropped: Sequence[tuple[int, int]] = (), condemned: Sequence[str] = ()) -> CommitRecord:
    """Append a gc record, as anybody may."""
    history = open_history(store)
    commit_id = secrets.token_hex(16)

    def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        record = successor(newest, CommitKind.GC, commit_id, host="collector", pid=9)
        return replace(record, dropped=tuple(dropped), condemned=tuple(condemned)), b""

    return append(history, history.newest(), build, FakeClock().retry())


def all_records(store: Store) -> list[CommitRecord]:
    """Return the whole history, oldest first, read with nothing kept."""
    history = open_history(store)
    newest = history.newest()
    return [history.record(seq) for seq in range(1, newest.seq + 1)] if newest is not None else []


def fresh(store: Store) -> History:
    return open_history(store)
