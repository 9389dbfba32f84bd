"""What the tests of this layer are made of: holders, clocks, small trees, and versions to commit."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import PACK_PREFIX, SEGMENT_PREFIX, new_pack_key, new_segment_key
from ckptfs.format.manifest import Chunk, Entry, Kind, Part, Tree, merge
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.versions.append import append, successor
from ckptfs.versions.history import History, open_history
from ckptfs.versions.leasing import Holder
from ckptfs.versions.parts import plan_parts
from ckptfs.versions.references import needed_packs
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
    parts, inline = plan_parts(previous, Part(tuple(tree.values())), lambda: tree, lambda _: new_segment_key(1))
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


class Series:
    """Versions of one writer whose files are chunks, each in a pack of its own that is in the store."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.files: dict[str, Chunk] = {}

    def put(self, base: Chunk | None = None) -> Chunk:
        """Put a pack that holds one new chunk."""
        pack, content = new_pack_key(self.writer.epoch), secrets.token_bytes(8)
        self.writer.history.store.put(pack, content)
        return Chunk(hash_bytes(content), 8, pack, 16, 20, base)

    def save(
        self, *fresh: str, restored: Mapping[str, Chunk] | None = None, based: Mapping[str, Chunk] | None = None
    ) -> CommitRecord:
        """Save with some files written anew, some as an older version had them, some encoded against a chunk."""
        before = {chunk.pack for chunk in self.files.values()}
        self.files |= {name: self.put() for name in fresh}
        self.files |= {name: self.put(base) for name, base in (based or {}).items()}
        self.files |= restored or {}
        return self.commit(revived={chunk.pack for chunk in (restored or {}).values()} - before)

    def commit(self, revived: Collection[str] = (), version: int | None = None) -> CommitRecord:
        """Commit the files as they are."""
        previous = self.writer.head
        tree = tree_of(directory(), *(chunk_file(name, chunk) for name, chunk in self.files.items()))
        parts, inline = plan_parts(previous, Part(tuple(tree.values())), lambda: tree, self._put_segment)
        made = draft(version or (previous.version + 1 if previous is not None else 1))
        return self.writer.commit_save(replace(made, parts=parts, inline=inline, revived=frozenset(revived)))

    def _put_segment(self, body: bytes) -> str:
        key = new_segment_key(self.writer.epoch)
        self.writer.history.store.put(key, body)
        return key


def chunk_file(path: str, chunk: Chunk) -> Entry:
    """A file of one chunk."""
    return Entry(path=path.encode(), kind=Kind.FILE, mode=0o644, size_bytes=chunk.size_bytes, extents=(chunk,))


def objects_of(store: Store) -> set[str]:
    """Return the keys of all packs and segments."""
    return {info.key for prefix in (PACK_PREFIX, SEGMENT_PREFIX) for info in store.list(prefix)}


def needed_by(store: Store, version: int) -> set[str]:
    """Return the packs and segments that a version names."""
    history = open_history(store)
    record = history.version(version)
    return needed_packs(history.tree(record).values()) | {part.key for part in record.parts if part.at == "segment"}


def needed_by_all(store: Store) -> set[str]:
    """Return the packs and segments that the versions there are name."""
    return {key for version in open_history(store).numbers() for key in needed_by(store, version)}
