"""Storing the content of a pending version's data files: chunk, hash, leave out what is known, encode, pack, put.

    this thread          read a chunk into a buffer -> ... -> take the results in order -> fill packs
    encoding threads     hash -> known? -> encode
    putting threads      put packs

Memory is bounded whatever the files' sizes: `workers` + 3 chunk buffers, as many encoded frames, and the packs of
PackWriter. A small file is handled in this thread: handing it over would cost more than its hash.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.codec.frame import encode_frame
from ckptfs.errors import CorruptObjectError
from ckptfs.format.manifest import Chunk, Extent, Hole
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.transfer.data_file import BufferPool, DataFile
from ckptfs.transfer.pack_writer import PackWriter
from ckptfs.versions.retry import Retry

# 4 MiB: a manifest row of 64 bytes is then 0.0015 % of the data, and a 4 KiB change uploads 4 MiB at most
CHUNK_BYTES = 4 << 20
# below 256 KiB hashing and encoding (10 to 300 us) take less than handing over to a thread and back costs
_INLINE_BYTES = 256 << 10

Progress = Callable[[int, int], None]
"""Gets bytes done and bytes in all, of the data files; called by several threads, one at a time."""


@dataclass(slots=True)
class Stored:
    """What has been put into the store for a version that is not committed yet; kept when an attempt fails."""

    chunks: dict[bytes, Chunk] = field(default_factory=dict)
    """By hash."""
    size_bytes: int = 0
    """Of the objects."""


class ContentWriter:
    """Stores data files of one version.

    Args:
        store: Where to.
        epoch: The writer's.
        known: Chunks by hash that need not be stored again: those of the version before.
        stored: Chunks of an earlier attempt at this version; added to.
        workers: Encoding threads.
        puts: Packs on their way at once.
        retry: For puts that the store does not answer.
        on_progress: Told what is in the store.
    """

    def __init__(
        self,
        store: Store,
        epoch: int,
        known: Mapping[bytes, Chunk],
        stored: Stored,
        *,
        workers: int,
        puts: int,
        retry: Retry,
        on_progress: Progress,
    ) -> None:
        self._known = known
        self._stored = stored
        self._workers = workers
        self._on_progress = on_progress
        self._packs = PackWriter(store, epoch, puts=puts, retry=retry, on_stored=self._note_stored)
        # one more than can be at work at once, so that reading goes on meanwhile
        self._window_size = workers + 2
        self._buffers = BufferPool(self._window_size + 1, CHUNK_BYTES)
        self._window: deque[tuple[_Content, int, Future[tuple[bytes, bytes | None]]]] = deque()
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._done_bytes = 0
        self._total_bytes = 0

    def write(self, files: Iterable[tuple[Path, int]]) -> list[tuple[Extent, ...]]:
        """Store the content of some files.

        Args:
            files: Paths and captured sizes; their order is that of the packs.

        Returns:
            The extents of each file. All chunks that they name are in the store.

        Raises:
            PendingDataError: A file's bytes are lost.
            OSError: A file cannot be read now.
            StoreError: The store failed; what was put before is in `stored`.
        """
        todo = list(files)
        self._total_bytes = sum(size for _, size in todo)
        self._on_progress(0, self._total_bytes)
        contents = []
        try:
            with ThreadPoolExecutor(self._workers, thread_name_prefix="ckptfs-encode") as encoders:
                for path, size_bytes in todo:
                    content = _Content()
                    contents.append(content)
                    with DataFile(path, size_bytes) as file:
                        self._read(file, content, encoders)
                while self._window:
                    self._take_result()
            self._packs.finish()
        finally:
            self._packs.close()
        return [tuple(self._place(size, digest) for size, digest in content.rows) for content in contents]

    def _read(self, file: DataFile, content: "_Content", encoders: ThreadPoolExecutor) -> None:
        for size, buffer in file.extents(self._buffers):
            content.rows.append((size, None))
            if buffer is None:
                self._add_done(size)
                continue
            if size < _INLINE_BYTES:
                result: Future[tuple[bytes, bytes | None]] = Future()
                result.set_result(self._encode(buffer, size))
            else:
                result = encoders.submit(self._encode, buffer, size)
            self._window.append((content, len(content.rows) - 1, result))
            if len(self._window) > self._window_size:
                self._take_result()

    def _encode(self, buffer: bytearray, size: int) -> tuple[bytes, bytes | None]:
        """Return a chunk's hash, and its frame unless somebody has stored it or is about to."""
        try:
            with memoryview(buffer)[:size] as plain:
                digest = hash_bytes(plain)
                if digest in self._known:
                    return digest, None
                with self._lock:
                    if digest in self._stored.chunks or digest in self._claimed:
                        return digest, None
                    self._claimed.add(digest)
                return digest, encode_frame(plain)
        finally:
            self._buffers.give(buffer)

    def _take_result(self) -> None:
        content, row, result = self._window.popleft()
        digest, frame = result.result()
        size = content.rows[row][0]
        content.rows[row] = (size, digest)
        if frame is None:
            self._add_done(size)
        else:
            self._packs.add(frame, digest, size)

    def _note_stored(self, chunks: list[Chunk], pack_bytes: int) -> None:
        with self._lock:
            self._stored.chunks.update((chunk.hash, chunk) for chunk in chunks)
            self._stored.size_bytes += pack_bytes
        self._add_done(sum(chunk.size_bytes for chunk in chunks))

    def _add_done(self, size: int) -> None:
        with self._lock:
            self._done_bytes += size
            self._on_progress(self._done_bytes, self._total_bytes)

    def _place(self, size: int, digest: bytes | None) -> Extent:
        if digest is None:
            return Hole(size)
        chunk = self._known.get(digest) or self._stored.chunks.get(digest)
        if chunk is None or chunk.size_bytes != size:
            raise CorruptObjectError(f"chunk {digest.hex()} of {size} bytes was not stored")
        return chunk


@dataclass(slots=True)
class _Content:
    """A file's extents as far as they are known: size, and hash unless it is a hole."""

    rows: list[tuple[int, bytes | None]] = field(default_factory=list)
