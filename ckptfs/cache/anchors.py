"""Anchors: what the newest version's successor can be encoded against, kept on local disk.

An anchor is a chunk of the newest version that stands alone, or the base of one that does not. The upload process keeps
the packs that hold anchors as it puts them into the store: `anchors/<epoch>-<id>.<uses>` has the frames of the pack at
their places, and holes where other frames are. `uses` counts the versions that were encoded against it.

Rules:
    A1  what is kept is a copy that may be lost or damaged at any time: a chunk is handed out only if it hashes to its
        name, and whoever gets none encodes without a base
    A2  it holds packs that the newest version needs, and no others
    A3  a full disk is no error here: nothing more is kept then. No more is kept than the limit, nor than is left free
        for the live tree and for what is pending. What is kept stays when more comes: a checkpoint that is larger than
        the limit has anchors for a part of it, and would have none if each pack drove out another
    A4  after MAX_USES versions it is dropped, so that the next one stands alone

One process writes here (the upload process, X1); several of its threads may at once.
"""

import logging
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ckptfs.codec.frame import decode_frame
from ckptfs.format.keys import PACK_PREFIX
from ckptfs.format.manifest import Chunk

MAX_USES = 8
"""Versions on one anchor. The further away, the less it saves: 2 to 4 points over 8 versions of a training run."""
MIN_ANCHOR_BYTES = 16 << 10
"""Plain. What a base saves of a smaller chunk is hardly more than the row and the hash that name it (84 bytes)."""

_NAME = re.compile(r"(\d{10}-[0-9a-f]{32})\.(\d+)")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """One kept pack."""

    uses: int
    size_bytes: int
    """On disk."""
    mtime_ns: int


class AnchorPlace(NamedTuple):
    """Where an anchor's frame is, and what it holds."""

    path: Path
    offset_bytes: int
    stored_bytes: int
    size_bytes: int
    """Plain."""
    digest: bytes


def read_anchor(place: AnchorPlace) -> bytes:
    """Return an anchor's plain bytes. Raises OSError, ChunkCorruptError: It is not there any more, or damaged."""
    fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        frame = os.pread(fd, place.stored_bytes, place.offset_bytes)
    finally:
        os.close(fd)
    return decode_frame(frame, size_bytes=place.size_bytes, digest=place.digest)


class AnchorCache:
    """The anchors of one store.

    Args:
        directory: Where they are; it exists.
        limit_bytes: The most that is kept.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        for item in os.scandir(directory):
            if match := _NAME.fullmatch(item.name):
                status = item.stat()
                self._kept[PACK_PREFIX + match[1]] = _Kept(int(match[2]), status.st_blocks * 512, status.st_mtime_ns)
            else:
                os.unlink(item.path)  # of a process that died while it was writing

    def place(self, chunk: Chunk) -> AnchorPlace | None:
        """Return where an anchor is kept; None if it is not."""
        kept = self._kept.get(chunk.pack)
        if kept is None:
            return None
        path = self._path(chunk.pack, kept.uses)
        return AnchorPlace(path, chunk.offset_bytes, chunk.stored_bytes, chunk.size_bytes, chunk.hash)

    def reject(self, chunk: Chunk, error: str) -> None:
        """What is kept of an anchor's pack could not be read: drop it."""
        log.warning("dropped anchors pack=%s error=%r", chunk.pack, error)
        with self._lock:
            self._drop(chunk.pack)

    def uses(self, chunk: Chunk) -> int:
        """Return how many versions have been encoded against an anchor's pack."""
        kept = self._kept.get(chunk.pack)
        return kept.uses if kept is not None else 0

    def keep(self, pack: str, body: bytes, chunks: Iterable[Chunk]) -> None:
        """Keep what a pack has of anchors, if there is room.

        Args:
            pack: Its key.
            body: All of it.
            chunks: What is in it, by offset.
        """
        pieces = list(_pieces(chunks))
        size_bytes = sum(end - start for start, end in pieces)
        with self._lock:
            if pieces and self._has_room(size_bytes):
                self._write(pack, body, pieces)

    def advance(self, needed: Collection[str], used: Collection[str]) -> None:
        """A version was committed: drop what it does not need (A2), or has needed often enough (A4).

        Args:
            needed: Packs of its anchors.
            used: Packs of the bases that its new chunks were encoded against.
        """
        with self._lock:
            for pack in self._kept.keys() - needed:
                self._drop(pack)
            for pack in used:
                self._count(pack)

    def _count(self, pack: str) -> None:
        kept = self._kept.get(pack)
        if kept is None:
            return
        if kept.uses + 1 == MAX_USES:
            self._drop(pack)
            return
        try:
            os.rename(self._path(pack, kept.uses), self._path(pack, kept.uses + 1))
        except OSError:
            self._drop(pack)
        else:
            kept.uses += 1

    def _has_room(self, size_bytes: int) -> bool:
        """Tell whether there is room for some bytes, giving back what was kept while there was more of it."""
        total = sum(kept.size_bytes for kept in self._kept.values())
        room = os.statvfs(self._directory)
        most = min(self._limit_bytes, (room.f_bavail * room.f_frsize + total) // 2)
        for pack, kept in sorted(self._kept.items(), key=lambda item: item[1].mtime_ns):
            if total <= most:
                break
            total -= kept.size_bytes
            self._drop(pack)
        return total + size_bytes <= most

    def _write(self, pack: str, body: bytes, pieces: Sequence[tuple[int, int]]) -> None:
        path = self._path(pack, 0)
        temporary = path.with_suffix(".tmp")
        view = memoryview(body)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                for start, end in pieces:
                    while start < end:
                        start += os.pwrite(fd, view[start:end], start)
                status = os.fstat(fd)
            finally:
                os.close(fd)
            temporary.rename(path)
        except OSError as error:
            log.warning("kept no anchors pack=%s error=%r", pack, str(error))
            temporary.unlink(missing_ok=True)
            return
        self._kept[pack] = _Kept(0, sum(end - start for start, end in pieces), status.st_mtime_ns)

    def _drop(self, pack: str) -> None:
        kept = self._kept.pop(pack, None)
        if kept is not None:
            self._path(pack, kept.uses).unlink(missing_ok=True)

    def _path(self, pack: str, uses: int) -> Path:
        return self._directory / f"{pack.removeprefix(PACK_PREFIX)}.{uses}"


def is_anchor(chunk: Chunk) -> bool:
    """Tell whether another chunk may be encoded against this one."""
    return chunk.base is None and chunk.size_bytes >= MIN_ANCHOR_BYTES


def anchor_of(chunk: Chunk) -> Chunk | None:
    """Return what a chunk's successor may be encoded against: the chunk itself, or its base; None: neither."""
    anchor = chunk.base or chunk
    return anchor if is_anchor(anchor) else None


def _pieces(chunks: Iterable[Chunk]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a pack that its anchors fill, neighbours as one."""
    start = end = 0
    for chunk in chunks:
        if not is_anchor(chunk):
            continue
        if chunk.offset_bytes != end:
            if end > start:
                yield start, end
            start = chunk.offset_bytes
        end = chunk.offset_bytes + chunk.stored_bytes
    if end > start:
        yield start, end
