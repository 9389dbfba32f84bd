"""Fetching the data of files: every chunk that the jobs need, and what it is encoded against, once, checked, and handed
to all who wait for it.

The damage of a chunk concerns only the files that hold it; the others are completed.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ckptfs.errors import CkptfsError
from ckptfs.format.manifest import Chunk, Entry
from ckptfs.store.base import Store
from ckptfs.transfer.chunk_reader import ChunkReader
from ckptfs.transfer.pack_ranges import plan_reads
from ckptfs.versions.retry import Retry

Write = Callable[[int, bytes], None]
"""Takes the plain bytes at an offset of the file. Holes are never written."""


@dataclass(frozen=True, slots=True, eq=False)
class FetchJob:
    """The data of one file, or of a range of it."""

    entry: Entry
    write: Write
    """Called by several threads, in no particular order; an OSError fails the job and no other."""
    start_bytes: int = 0
    """Chunks that lie wholly before it are left out."""
    end_bytes: int | None = None
    """Chunks that begin at or after it are left out; None for the end of the file."""
    present: frozenset[int] = frozenset()
    """Offsets of chunks that are there already, and left out."""

    def chunks(self) -> Iterator[tuple[int, Chunk]]:
        """Yield the chunks of the job with their offsets in the file."""
        offset = 0
        for extent in self.entry.extents:
            end = offset + extent.size_bytes
            is_wanted = end > self.start_bytes and (self.end_bytes is None or offset < self.end_bytes)
            if is_wanted and isinstance(extent, Chunk) and offset not in self.present:
                yield offset, extent
            offset = end


OnDone = Callable[[FetchJob, CkptfsError | None], None]
OnBytes = Callable[[int], None]


class Fetcher:
    """Fetches file data from a store; may be used by several threads at once.

    Args:
        store: Where the packs are.
        workers: Requests in flight of one `fetch`; each holds at most 16 MiB and one chunk.
        retry: How long a store that does not answer is asked again.
    """

    def __init__(self, store: Store, *, workers: int = 8, retry: Retry | None = None) -> None:
        self._reader = ChunkReader(store, workers=workers, retry=retry)

    def fetch(self, jobs: Sequence[FetchJob], on_done: OnDone, on_bytes: OnBytes = lambda _: None) -> None:
        """Fetch the data of some files, beginning in their order, and return when all are done.

        Args:
            jobs: Files in the order in which they are wanted.
            on_done: Called once for each job, by any thread: with None when all its data were written; or with its
                first error, which names file, chunk and pack, as soon as nothing more will be written.
            on_bytes: Told the number of plain bytes after each write, by any thread.

        Raises:
            Exception: What a callback raises (but for an OSError of `write`).
        """
        progress = [_Progress(job, on_done, on_bytes) for job in jobs]
        users: dict[Chunk, list[tuple[_Progress, int]]] = {}
        for state in progress:
            for offset, chunk in state.job.chunks():
                users.setdefault(chunk, []).append((state, offset))
                state.waiting_for += 1
        for state in progress:
            if state.waiting_for == 0:
                on_done(state.job, None)

        def deliver(chunk: Chunk, result: bytes | CkptfsError) -> None:
            # a base that no file of these has is here only for others
            for state, offset in users.get(chunk, ()):
                state.take(offset, result)

        self._reader.read(plan_reads(users), deliver)

    def read_chunks(self, chunks: Iterable[Chunk], deliver: Callable[[Chunk, bytes | CkptfsError], None]) -> None:
        """Fetch chunks in as few requests as bring them, and return when all were handed out.

        Args:
            chunks: In the order in which they are wanted.
            deliver: Gets each once, and what any of them is encoded against; an error names chunk and pack.

        Raises:
            Exception: What `deliver` raises.
        """
        self._reader.read(plan_reads(chunks), deliver)

    def read_file(self, entry: Entry) -> bytes:
        """Return a whole file; meant for small ones.

        Raises:
            CkptfsError: As handed to `on_done`.
        """
        content = bytearray(entry.size_bytes)
        errors: list[CkptfsError | None] = []

        def write(offset_bytes: int, data: bytes) -> None:
            content[offset_bytes : offset_bytes + len(data)] = data

        self.fetch([FetchJob(entry, write)], lambda _, error: errors.append(error))
        if errors[0] is not None:
            raise errors[0]
        return bytes(content)


class _Progress:
    """How far one job is."""

    def __init__(self, job: FetchJob, on_done: OnDone, on_bytes: OnBytes) -> None:
        self.job = job
        self.waiting_for = 0
        self._on_done = on_done
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._error: CkptfsError | None = None

    def take(self, offset_bytes: int, result: bytes | CkptfsError) -> None:
        """Write one chunk, or note why it cannot be had; report the job when it was the last."""
        error = self._error
        if error is None:
            error = self._describe(result) if isinstance(result, CkptfsError) else self._write(offset_bytes, result)
        with self._lock:
            self._error = self._error or error
            self.waiting_for -= 1
            is_last = self.waiting_for == 0
        if is_last:
            self._on_done(self.job, self._error)

    def _write(self, offset_bytes: int, data: bytes) -> CkptfsError | None:
        try:
            self.job.write(offset_bytes, data)
        except OSError as cause:
            error = CkptfsError(f"{self._name()} could not be written: {cause.strerror or cause}")
            error.errno = cause.errno or error.errno
            error.__cause__ = cause
            return error
        self._on_bytes(len(data))
        return None

    def _describe(self, cause: CkptfsError) -> CkptfsError:
        error = type(cause)(f"{self._name()}: {cause.fact}", hint=cause.hint)
        error.__cause__ = cause
        return error

    def _name(self) -> str:
        return repr(os.fsdecode(self.job.entry.path))
