"""Filling packs and putting them into the store, several at once.

Memory is bounded by the packs: one is being filled, and `puts` are on their way; a further one waits until one of those
is done. A failed put costs the chunks of its own pack and no others: what was stored stays known to the caller.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ckptfs.format.keys import new_pack_key
from ckptfs.format.manifest import Chunk
from ckptfs.format.pack import PackBuilder
from ckptfs.store.base import Store
from ckptfs.versions.retry import Retry

# 32 MiB (FORMAT.md 5): with four on their way and one being filled and joined, 200 MiB of memory at most
PACK_BYTES = 32 << 20
# 8 MiB: what is sent already while the store has less to do than it could: 80 ms at 100 MB/s, of which it waits 10
_EARLY_BYTES = 8 << 20

OnStored = Callable[[str, list[Chunk], bytes], None]
"""Gets the key of a pack that is in the store, its chunks, and all of it. Called by the putting threads, or whoever
calls `finish`, one at a time."""


class PackWriter:
    """Puts frames into packs, in the order in which they come.

    Args:
        store: Where to.
        epoch: The writer's, part of every pack's key.
        puts: Packs on their way at once.
        retry: For puts that the store does not answer.
        on_stored: Told about each pack that is in the store.
    """

    def __init__(self, store: Store, epoch: int, *, puts: int, retry: Retry, on_stored: OnStored) -> None:
        self._store = store
        self._epoch = epoch
        self._retry = retry
        self._on_stored = on_stored
        self._puts = puts
        self._executor: ThreadPoolExecutor | None = None
        self._slots = threading.Semaphore(puts)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._start_pack()

    def add(self, frame: bytes, digest: bytes, raw_bytes: int, base: Chunk | None = None) -> None:
        """Append a frame, encoded against a base or not; waits when too many packs are on their way.

        Raises:
            CkptfsError: A put failed. Those on their way go on; `close` waits for them.
        """
        if len(self._builder) and self._builder.size_bytes + len(frame) > PACK_BYTES:
            # taken before the pack is joined to one piece: so there are never more than `puts` such pieces
            self._slots.acquire()
            self._send()
        elif self._builder.size_bytes >= _EARLY_BYTES and self._slots.acquire(blocking=False):
            self._send()
        offset = self._builder.add(frame, digest, raw_bytes)
        self._chunks.append(Chunk(digest, raw_bytes, self._key, offset, len(frame), base))

    def finish(self) -> None:
        """Put the last pack and return when all are in the store. Raises CkptfsError: A put failed."""
        if len(self._builder):
            self._slots.acquire()
            if self._executor is None:
                # alone: a thread for it would take as long as encoding 100 KiB does
                self._put(self._key, self._builder.finish(), self._chunks)
                self._start_pack()
            else:
                self._send()
        self.close()
        self._raise_failure()

    def close(self) -> None:
        """Wait for the packs that are on their way; what was not sent is dropped."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    def _start_pack(self) -> None:
        self._builder = PackBuilder()
        self._chunks: list[Chunk] = []
        self._key = new_pack_key(self._epoch)

    def _send(self) -> None:
        """Let a thread put the pack; a slot was acquired for it."""
        try:
            self._raise_failure()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._puts, thread_name_prefix="ckptfs-put")
            self._executor.submit(self._put, self._key, self._builder.finish(), self._chunks)
        except BaseException:
            self._slots.release()
            raise
        self._start_pack()

    def _put(self, key: str, body: bytes, chunks: list[Chunk]) -> None:
        try:
            # the same bytes under the same key: an attempt that arrives late changes nothing
            self._retry.call(lambda: self._store.put(key, body))
            with self._lock:
                self._on_stored(key, chunks, body)
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
        finally:
            self._slots.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
