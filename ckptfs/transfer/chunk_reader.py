"""Reading chunks from packs: ranged GETs by several threads, every frame decoded and checked against its hash.

Memory is bounded by the threads: each holds one range (pack_ranges.MAX_RANGE_BYTES, or one larger frame) and one plain
chunk; or the plain bases of one group (MAX_GROUP_BYTES, or one larger chunk), and as much.

Rules:
    R1  a chunk is handed out only if it hashes to its name
    R2  a chunk that comes damaged is asked for once more, by itself: it may have been damaged on its way. A store that
        does not answer is asked again within the budget of the retry policy
    R3  when a range fails for a reason that may lie in one part of it, its chunks are asked for one by one, so that
        the damage of one chunk does not take its neighbours along
    R4  a chunk is decoded only against the base that its frame names, and the manifest too. Without it there is an
        error that names both
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from ckptfs.codec.frame import base_digest, decode_frame
from ckptfs.errors import (
    ChunkCorruptError,
    CkptfsError,
    CorruptObjectError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
    UnsupportedFormatError,
)
from ckptfs.format.manifest import Chunk
from ckptfs.store.base import Store
from ckptfs.threads import start_thread
from ckptfs.transfer.pack_ranges import PackRange, ReadGroup, split_range
from ckptfs.versions.retry import Retry

Result = bytes | CkptfsError
"""A chunk's plain bytes, or why they cannot be had."""

OnChunk = Callable[[Chunk, Result], None]
"""Gets each chunk once. Called by several threads."""


class ChunkReader:
    """Reads chunks of a store; may be used by several threads at once.

    Args:
        store: Where the packs are.
        workers: Requests in flight of one `read`.
        retry: How long a store that does not answer is asked again.
    """

    def __init__(self, store: Store, *, workers: int = 8, retry: Retry | None = None) -> None:
        self._store = store
        self._workers = workers
        self._retry = retry or Retry()
        self._patience = True
        """False after a request that failed for its whole budget: until one succeeds, the next are tried once each."""

    def read(self, groups: Iterable[ReadGroup], on_chunk: OnChunk) -> None:
        """Read all chunks of some groups, their bases too, beginning in their order, and return when all were handed
        out.

        Raises:
            Exception: What `on_chunk` raises; what was not begun by then is left out.
            KeyboardInterrupt: At once; what is under way then is not handed out.
        """
        pending = _Shared(groups)

        def hand_out(chunk: Chunk, result: Result) -> None:
            if not pending.is_interrupted:
                on_chunk(chunk, result)

        if len(pending) > 1:
            work = functools.partial(self._work, pending, hand_out)
            threads = [start_thread(work, "ckptfs-fetch") for _ in range(min(self._workers, len(pending)) - 1)]
            # where no more may be had, those that there are do it all
            self._work(pending, on_chunk)
            self._join([thread for thread in threads if thread is not None], pending)
        else:
            self._work(pending, on_chunk)
        if pending.failure is not None:
            raise pending.failure

    def _join(self, threads: Iterable[threading.Thread], pending: "_Shared") -> None:
        """Wait for the others; not when interrupted: each may take as long as 16 MiB do, or a store that is away."""
        try:
            for thread in threads:
                if not pending.is_interrupted:
                    thread.join()
        except BaseException as error:
            pending.stop(error)
            raise

    def _work(self, pending: "_Shared", on_chunk: OnChunk) -> None:
        try:
            for group in pending:
                self._read_group(group, on_chunk)
        except BaseException as error:
            pending.stop(error)

    def _read_group(self, group: ReadGroup, on_chunk: OnChunk) -> None:
        bases: dict[Chunk, Result] = {}

        def take_base(chunk: Chunk, result: Result) -> None:
            bases[chunk] = result
            on_chunk(chunk, result)

        if group.bases is not None:
            self._read_range(group.bases, {}, take_base)
        for span in group.ranges:
            self._read_range(span, bases, on_chunk)

    def _read_range(
        self, span: PackRange, bases: Mapping[Chunk, Result], on_chunk: OnChunk, *, is_second: bool = False
    ) -> None:
        try:
            body = self._get(span)
        except CorruptObjectError as error:
            if is_second:
                on_chunk(span.chunks[0], _explain(error, span.chunks[0]))
                return
            for part in split_range(span):
                self._read_range(part, bases, on_chunk, is_second=True)
        except CkptfsError as error:
            for chunk in span.chunks:
                on_chunk(chunk, _explain(error, chunk))
        else:
            self._hand_out(span, memoryview(body), bases, on_chunk, is_second)

    def _hand_out(
        self, span: PackRange, body: memoryview, bases: Mapping[Chunk, Result], on_chunk: OnChunk, is_second: bool
    ) -> None:
        for chunk in span.chunks:
            start = chunk.offset_bytes - span.offset_bytes
            result = _decode(body[start : start + chunk.stored_bytes], chunk, bases)
            is_own_damage = isinstance(result, CorruptObjectError) and not _is_missing(chunk.base, bases)
            if is_own_damage and not is_second:
                alone = PackRange(chunk.pack, chunk.offset_bytes, chunk.stored_bytes, (chunk,))
                self._read_range(alone, bases, on_chunk, is_second=True)
            else:
                on_chunk(chunk, result)

    def _get(self, span: PackRange) -> bytes:
        def request() -> bytes:
            return self._store.get_range(span.pack, span.offset_bytes, span.size_bytes)

        try:
            body = self._retry.call(request) if self._patience else request()
        except StoreUnavailableError:
            self._patience = False
            raise
        self._patience = True
        if len(body) != span.size_bytes:
            raise CorruptObjectError(f"the store gave {len(body)} of {span.size_bytes} bytes")
        return body


class _Shared:
    """The groups that nobody has begun yet, taken by several threads; ends early when one of them fails."""

    def __init__(self, groups: Iterable[ReadGroup]) -> None:
        self._groups = list(groups)
        self._next = 0
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    @property
    def is_interrupted(self) -> bool:
        """True if somebody wants the program to end."""
        return self.failure is not None and not isinstance(self.failure, Exception)

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[ReadGroup]:
        while True:
            with self._lock:
                if self.failure is not None or self._next == len(self._groups):
                    return
                group = self._groups[self._next]
                self._next += 1
            yield group

    def stop(self, failure: BaseException) -> None:
        """Let no further group be begun."""
        with self._lock:
            self.failure = self.failure or failure


def _decode(frame: memoryview, chunk: Chunk, bases: Mapping[Chunk, Result]) -> Result:
    base = chunk.base
    try:
        if base_digest(frame) != (base.hash if base is not None else None):
            raise CorruptObjectError("its frame is encoded against another chunk than the manifest says")
        plain = bases[base] if base is not None else None
        if isinstance(plain, CkptfsError):
            return _explain(plain, chunk, f"its base, {plain.fact}")
        return decode_frame(frame, size_bytes=chunk.size_bytes, digest=chunk.hash, base=plain)
    except CkptfsError as error:
        return _explain(error, chunk)


def _is_missing(base: Chunk | None, bases: Mapping[Chunk, Result]) -> bool:
    """Tell whether a chunk cannot be decoded for want of its base."""
    return base is not None and isinstance(bases.get(base), CkptfsError)


def _explain(error: CkptfsError, chunk: Chunk, why: str | None = None) -> CkptfsError:
    """Return an error that names chunk and pack; one of the store that means damage becomes damage."""
    fact = f"chunk {chunk.hash.hex()} in {chunk.pack} at {chunk.offset_bytes}: {why or error.fact}"
    kind: type[CkptfsError] = type(error)
    if isinstance(error, NotFoundError):
        fact, kind = f"chunk {chunk.hash.hex()}: its pack {chunk.pack} is missing", CorruptObjectError
    elif isinstance(error, CorruptObjectError):
        kind = ChunkCorruptError
    elif not isinstance(error, StoreError | UnsupportedFormatError):
        kind = CkptfsError
    explained = kind(fact, hint=None if kind is not type(error) else error.hint)
    explained.__cause__ = error
    return explained
