"""Storing the content of a pending version's data files: chunk, hash, leave out what is known, encode, pack, put.

    this thread          read a chunk into a slot -> ... -> take the results in order -> fill packs
    a thread each        hash -> known? -> have an encoder read its base, if one is here, and encode
    putting threads      put packs, keep their anchors

Memory is bounded whatever the files' sizes: the encoders' slots, a base for each encoder, and the packs of PackWriter.
A small file is handled in this thread: handing it over would cost more than its hash.
"""

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, starmap
from pathlib import Path
from typing import NamedTuple

from ckptfs.cache.anchors import MIN_ANCHOR_BYTES, AnchorCache, anchor_of, read_anchor
from ckptfs.codec.frame import MIN_BASE_GAIN
from ckptfs.errors import ChunkCorruptError, CorruptObjectError
from ckptfs.format.manifest import Chunk, Entry, Extent, Hole
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.transfer.bases import Bases
from ckptfs.transfer.cuts import Cuts, Ends, ends_of
from ckptfs.transfer.data_file import DataFile
from ckptfs.transfer.effort import EffortControl
from ckptfs.transfer.encoding import Effort, Encoded, EncoderPool, Slot, Work, encode
from ckptfs.transfer.pack_writer import PackWriter
from ckptfs.versions.retry import Retry

# 4 MiB: a manifest row of 64 bytes is then 0.0015 % of the data, and a 4 KiB change uploads 4 MiB at most
CHUNK_BYTES = 4 << 20
# below 256 KiB hashing and encoding (10 to 300 us) take less than handing over to a thread and back costs
_INLINE_BYTES = 256 << 10
# 8 %: what an anchor must save from its second version on; with less, one that is nearer is worth storing. The first
# version takes what it can get: some tensors never save more (fp32 AdamW over 9 versions: 77.3 % of the bytes; 78.7 %
# when 8 % are asked of the first one too, 77.5 % when of none)
_LATER_GAIN = 0.08

Progress = Callable[[int, int], None]
"""Gets bytes done and bytes in all, of the data files; called by several threads, one at a time."""


@dataclass(slots=True)
class Stored:
    """What has been put into the store for a version that is not committed yet; kept when an attempt fails."""

    chunks: dict[bytes, Chunk] = field(default_factory=dict)
    """By hash."""
    size_bytes: int = 0
    """Of the objects."""

    def add(self, chunks: Iterable[Chunk], body: bytes) -> None:
        """A pack with these chunks is in the store."""
        self.chunks.update((chunk.hash, chunk) for chunk in chunks)
        self.size_bytes += len(body)

    def base_packs(self) -> set[str]:
        """Return the packs of the bases that the chunks are encoded against."""
        return {chunk.base.pack for chunk in self.chunks.values() if chunk.base is not None}


class Source(NamedTuple):
    """A data file to be stored."""

    path: Path
    size_bytes: int
    """As captured."""
    before: Entry | None
    """The file of the version before that it continues; None: there is none."""


class ContentWriter:
    """Stores data files of one version.

    Args:
        store: Where to.
        epoch: The writer's.
        known: Chunks by hash that need not be stored again and may be bases: those of the version before.
        stored: Chunks of an earlier attempt at this version; added to.
        anchors: Where bases come from, and where what is stored is kept to become one; None: nothing has a base.
        encoders: For chunks of CHUNK_BYTES.
        effort: Says how hard to encode.
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
        anchors: AnchorCache | None,
        *,
        encoders: EncoderPool,
        effort: EffortControl,
        puts: int,
        retry: Retry,
        on_progress: Progress,
    ) -> None:
        self._known = known
        self._stored = stored
        self._anchors = anchors
        self._encoders = encoders
        self._effort = effort
        self._on_progress = on_progress
        self._packs = PackWriter(store, epoch, puts=puts, retry=retry, on_stored=self._note_stored)
        self._slots = encoders.slots
        self._window: deque[_Pending] = deque()
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._done_bytes = 0
        self._total_bytes = 0

    def write(self, files: Iterable[Source], total_bytes: int) -> list[tuple[Extent, ...]]:
        """Store the content of some files.

        Args:
            files: In the order of the packs; taken one by one.
            total_bytes: The sum of their sizes.

        Returns:
            The extents of each file. All chunks that they name are in the store.

        Raises:
            PendingDataError: A file's bytes are lost.
            OSError: A file cannot be read now.
            StoreError: The store failed; what was put before is in `stored`.
        """
        self._total_bytes = total_bytes
        self._on_progress(0, self._total_bytes)
        contents = _Contents()
        try:
            with ThreadPoolExecutor(self._encoders.count, thread_name_prefix="ckptfs-encode") as threads:
                for source in files:
                    with DataFile(source.path, source.size_bytes) as file:
                        self._read(file, source, contents, threads)
                    contents.ends.append(len(contents.sizes))
                while self._window:
                    self._take_result()
            self._packs.finish()
        finally:
            for pending in self._window:
                self._slots.give(pending.slot)
            self._packs.close()
        return [tuple(starmap(self._place, rows)) for rows in contents.files()]

    def _read(self, file: DataFile, source: Source, contents: "_Contents", threads: ThreadPoolExecutor) -> None:
        bases = Bases(source.before)
        cuts = Cuts(source.before, source.size_bytes, self._slots.size_bytes, self._known, self._ends_of)
        offset = 0
        for size, slot in file.extents(self._slots, cuts):
            row = contents.add(size)
            anchor = bases.at(offset - cuts.shift_bytes) if slot is not None and size >= MIN_ANCHOR_BYTES else None
            offset += size
            if slot is None:
                self._add_done(size)
                continue
            pending = _Pending(contents, row, slot, Future())
            self._window.append(pending)
            if size < _INLINE_BYTES:
                self._encode(pending, size, anchor, encode)
            else:
                threads.submit(self._encode, pending, size, anchor, self._encoders.encode)
            # one slot is left, for what is read next
            if len(self._window) == self._slots.count:
                self._take_result()

    def _ends_of(self, chunk: Chunk) -> Ends | None:
        """Return the ends of a chunk of the version before, or of its base, which was at the same place."""
        anchor = anchor_of(chunk)
        place = self._anchors.place(anchor) if self._anchors is not None and anchor is not None else None
        try:
            return ends_of(read_anchor(place)) if place is not None else None
        except (OSError, ChunkCorruptError):
            return None

    def _encode(self, pending: "_Pending", size: int, anchor: Chunk | None, encoder: "_Encode") -> None:
        try:
            pending.result.set_result(self._encode_new(pending.slot, size, anchor, encoder))
        except BaseException as error:
            pending.result.set_exception(error)

    def _encode_new(self, slot: Slot, size: int, anchor: Chunk | None, encoder: "_Encode") -> "_Result":
        """Return a chunk's hash, and its frame unless somebody has stored it or is about to."""
        digest = hash_bytes(slot.plain[:size])
        if digest in self._known:
            return _Result(digest)
        with self._lock:
            if digest in self._stored.chunks or digest in self._claimed:
                return _Result(digest)
            self._claimed.add(digest)
        work, anchor = self._work(size, anchor)
        encoded = encoder(slot, work)
        if encoded.base_error is not None and anchor is not None and self._anchors is not None:
            self._anchors.reject(anchor, encoded.base_error)
        return _Result(digest, encoded.frame_bytes, anchor if encoded.uses_base else None)

    def _work(self, size: int, anchor: Chunk | None) -> tuple[Work, Chunk | None]:
        """Return what is to be done for a chunk, and the anchor that it may be encoded against."""
        if anchor is None or self._anchors is None or self._effort.effort < Effort.DENSE:
            return Work(size), None
        # what is here may be whole while the store's is known to be damaged
        if self._known.get(anchor.hash) != anchor:
            return Work(size), None
        min_gain = _LATER_GAIN if self._anchors.uses(anchor) else MIN_BASE_GAIN
        return Work(size, self._anchors.place(anchor), min_gain), anchor

    def _take_result(self) -> None:
        pending = self._window.popleft()
        before_s = time.monotonic()
        try:
            digest, frame_bytes, base = pending.result.result()
            encoded_s = time.monotonic()
            size = pending.contents.sizes[pending.row]
            pending.contents.digests[pending.row] = digest
            if frame_bytes is None:
                self._add_done(size)
            else:
                self._packs.add(bytes(pending.slot.frame[:frame_bytes]), digest, size, base)
            self._effort.waited(for_encoders_s=encoded_s - before_s, for_store_s=time.monotonic() - encoded_s)
        finally:
            self._slots.give(pending.slot)

    def _note_stored(self, pack: str, chunks: list[Chunk], body: bytes) -> None:
        with self._lock:
            self._stored.add(chunks, body)
        if self._anchors is not None:
            self._anchors.keep(pack, body, chunks)
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


class _Result(NamedTuple):
    """What became of a chunk."""

    digest: bytes
    frame_bytes: int | None = None
    """None: its bytes are stored already, or about to be."""
    base: Chunk | None = None
    """What the frame is encoded against."""


_Encode = Callable[[Slot, Work], Encoded]


class _Pending(NamedTuple):
    """A chunk that is being encoded."""

    contents: "_Contents"
    row: int
    slot: Slot
    result: Future[_Result]


@dataclass(slots=True)
class _Contents:
    """The extents of all files as far as they are known, one after another: there may be very many files."""

    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    digests: list[bytes | None] = field(default_factory=list)
    """None: a hole, or not known yet."""
    ends: "array[int]" = field(default_factory=lambda: array("Q"))
    """How many extents there are up to the end of each file."""

    def add(self, size_bytes: int) -> int:
        """Append an extent; return its place."""
        self.sizes.append(size_bytes)
        self.digests.append(None)
        return len(self.digests) - 1

    def files(self) -> Iterator[Iterable[tuple[int, bytes | None]]]:
        """Give the extents of each file, in order: size and digest."""
        rows = zip(self.sizes, self.digests, strict=True)
        start = 0
        for end in self.ends:
            yield islice(rows, end - start)
            start = end
