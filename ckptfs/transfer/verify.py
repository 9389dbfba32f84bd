"""Checking a store: every record, every manifest, every pack, and on demand every byte.

What is shared by versions is checked once, and so are the bases of chunks, which count as needed by all that are
encoded against them. Where something is bad, the versions are read a second time to name every
file that it affects, so that memory holds the distinct chunks but no list of who uses them.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ckptfs.errors import CkptfsError, CorruptObjectError, NoSuchVersionError, UnsupportedFormatError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import COMMIT_PREFIX, PACK_PREFIX, commit_key, commit_seq
from ckptfs.format.manifest import Chunk
from ckptfs.store.base import Store
from ckptfs.transfer.chunk_reader import ChunkReader
from ckptfs.transfer.damage import Mark, Marks, mark_of, part_mark
from ckptfs.transfer.pack_ranges import plan_reads
from ckptfs.transfer.pack_tables import check_tables
from ckptfs.versions import ranges
from ckptfs.versions.chain import check_successor
from ckptfs.versions.history import History
from ckptfs.versions.references import content_chunks, needed_chunks

# records read at once, and read ahead of their check
_READERS = 16
_BATCH = 256

OnProgress = Callable[[int, int], None]
"""Gets stored bytes checked and stored bytes in all; called by several threads, one at a time."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    version: int
    """0 if no version can be named."""
    path: bytes
    """Of the file; empty if it concerns the whole version."""
    chunk: str
    """Hash in hex; empty if it concerns no single chunk."""
    object_key: str
    fact: str


def verify(
    history: History,
    store: Store,
    *,
    record: CommitRecord | None = None,
    read_data: bool = False,
    on_damage: Callable[[Marks], None] = lambda marks: None,
    on_progress: OnProgress = lambda done, total: None,
) -> list[Finding]:
    """Check a store, or one version of it.

    Args:
        history: Of the store; without a cache in front, or damage there is not seen.
        store: Where the packs are.
        record: The save record of the one version to check; None: the whole history and every version in it.
        read_data: Read every chunk and hash it, once, and the packs' tables; else only check that each pack is there
            and long enough.
        on_damage: Told of all chunks and manifest parts that are missing or damaged, once, when all are known.
        on_progress: Told how far reading is.

    Returns:
        What is wrong, by version (the newest first), each affected file by itself. Empty: all is well.

    Raises:
        StoreUnavailableError, StoreAccessError, StoreMissingError: The store cannot be asked.
        NoSuchVersionError: The one version was pruned meanwhile.
    """
    findings: list[Finding] = []
    records = [record] if record is not None else list(_check_history(history, findings))
    chunks: dict[Chunk, None] = {}
    marks: set[Mark] = set()
    readable = []
    for saved in records:
        try:
            chunks.update(needed_chunks(history.tree(saved).values()))
        except NoSuchVersionError:
            if record is not None:
                raise
            # pruned since its record was read
        except (CorruptObjectError, UnsupportedFormatError) as error:
            findings.append(Finding(saved.version, b"", "", commit_key(saved.seq), error.fact))
            marks.update(map(part_mark, history.damaged_holders(saved)))
        else:
            readable.append(saved)
    sizes = _pack_sizes(store, chunks)
    bad = _check_packs(sizes, chunks)
    if read_data:
        whole = [chunk for chunk in chunks if chunk not in bad]
        findings.extend(Finding(0, b"", "", pack, why) for pack, why in check_tables(store, whole, sizes).items())
        bad |= _read_all(store, [chunk for chunk in chunks if chunk not in bad and chunk.base not in bad], on_progress)
    if bad:
        readable, bad = _without_pruned(history, readable, bad)
        if record is not None and not readable:
            raise NoSuchVersionError(f"version {record.version} of {store.url} was pruned while it was read")
    on_damage(marks | {mark_of(chunk) for chunk in bad})
    if bad:
        for saved in readable:
            findings.extend(_affected(history, saved, bad))
    return findings


def _without_pruned(
    history: History, records: list[CommitRecord], bad: dict[Chunk, str]
) -> tuple[list[CommitRecord], dict[Chunk, str]]:
    """Leave out versions that were pruned since their records were read, and what only they need."""
    try:
        dropped = history.dropped()
    except CorruptObjectError:
        return records, bad  # what is wrong with history was found before
    left = [record for record in records if not ranges.contains(dropped, record.version)]
    if len(left) == len(records):
        return records, bad
    needed = {chunk for record in left for chunk in needed_chunks(history.tree(record).values())}
    return left, {chunk: why for chunk, why in bad.items() if chunk in needed}


def _check_history(history: History, findings: list[Finding]) -> Iterator[CommitRecord]:
    """Yield the save records of the versions that exist, newest first; note what is wrong with any record."""
    dropped: ranges.Ranges | None = None
    later: CommitRecord | None = None
    for seq, record in _records(history):
        try:
            if isinstance(record, CkptfsError):
                raise record
            if later is not None:
                check_successor(record, later)
            if dropped is None:
                dropped = history.dropped(newest=record)
        except (CorruptObjectError, UnsupportedFormatError) as error:
            findings.append(Finding(0, b"", "", commit_key(seq), error.fact))
            later = None
            continue
        later = record
        if record.kind is CommitKind.SAVE and not ranges.contains(dropped, record.version):
            yield record


def _records(history: History) -> Iterator[tuple[int, CommitRecord | CkptfsError]]:
    """Yield every number of a record, the newest first, with the record or why it cannot be read."""

    def read(seq: int) -> tuple[int, CommitRecord | CkptfsError]:
        try:
            return seq, history.record(seq)
        except (CorruptObjectError, UnsupportedFormatError) as error:
            return seq, error

    seq = _next_listed(history.store, "")
    with ThreadPoolExecutor(_READERS, thread_name_prefix="ckptfs-verify") as executor:
        while seq > 0:
            batch = list(executor.map(read, range(seq, max(seq - _BATCH, 0), -1)))
            yield from batch
            seq -= len(batch)
            if seq > 0 and all(isinstance(record, CkptfsError) for _, record in batch):
                # one planted record of a high number stands for more missing ones than can be told one by one
                there = _next_listed(history.store, commit_key(seq + 1))
                if there < seq:
                    yield seq, CorruptObjectError(f"commit records {there + 1} to {seq} are missing")
                seq = there


def _next_listed(store: Store, after: str) -> int:
    """Return the number of the first commit record that is listed after a key: the next lower one; 0: there is none."""
    return next((commit_seq(info.key) for info in store.list(COMMIT_PREFIX, after=after, limit=1)), 0)


def _pack_sizes(store: Store, chunks: Iterable[Chunk]) -> dict[str, int]:
    """Return the sizes of the packs of some chunks, of those that are there."""
    needed = {chunk.pack for chunk in chunks}
    return {info.key: info.size_bytes for info in store.list(PACK_PREFIX) if info.key in needed} if needed else {}


def _check_packs(sizes: Mapping[str, int], chunks: Iterable[Chunk]) -> dict[Chunk, str]:
    """Return the chunks whose pack is missing or too short, and what is wrong."""
    bad = {}
    for chunk in chunks:
        size = sizes.get(chunk.pack)
        end = chunk.offset_bytes + chunk.stored_bytes
        if size is None:
            bad[chunk] = "the pack is missing"
        elif size < end:
            bad[chunk] = f"the pack has {size} bytes, the chunk ends at {end}"
    return bad


def _read_all(store: Store, chunks: list[Chunk], on_progress: OnProgress) -> dict[Chunk, str]:
    """Return the chunks that do not hash to their name, and what is wrong. Raises StoreError: it cannot be asked."""
    bad: dict[Chunk, str] = {}
    total = sum(chunk.stored_bytes for chunk in chunks)
    done = 0
    lock = threading.Lock()

    def take(chunk: Chunk, result: bytes | CkptfsError) -> None:
        nonlocal done
        if isinstance(result, CkptfsError):
            if not isinstance(result, CorruptObjectError | UnsupportedFormatError):
                raise result
            bad[chunk] = result.fact
        with lock:
            done += chunk.stored_bytes
            on_progress(done, total)

    on_progress(0, total)
    ChunkReader(store).read(plan_reads(chunks), take)
    return bad


def _affected(history: History, record: CommitRecord, bad: dict[Chunk, str]) -> Iterator[Finding]:
    """Yield each bad chunk of each file of a version."""
    for entry in history.tree(record).values():
        for chunk in dict.fromkeys(content_chunks([entry])):
            if chunk.base in bad:
                fact = f"its base, chunk {chunk.base.hash.hex()}: {bad[chunk.base]}"
                yield Finding(record.version, entry.path, chunk.hash.hex(), chunk.base.pack, fact)
            elif chunk in bad:
                yield Finding(record.version, entry.path, chunk.hash.hex(), chunk.pack, bad[chunk])
