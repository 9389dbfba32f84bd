"""Storing damaged chunks again that a new version would take over from the one before.

Their bytes are looked for on local disk: in the live tree, at the place where the version has them, and among the
anchors. What is found there may be anything by now; only bytes that hash to the chunk's name are used.
"""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ckptfs.cache.anchors import AnchorCache, read_anchor
from ckptfs.cache.quiet import leave_atime
from ckptfs.codec.frame import encode_frame
from ckptfs.errors import CorruptObjectError
from ckptfs.format.manifest import Chunk, Entry, Extent
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.content_writer import Stored
from ckptfs.transfer.damage import Marks, is_damaged
from ckptfs.transfer.pack_writer import PackWriter

Find = Callable[[bytes, int, Chunk], bytes | None]
"""Returns the bytes of a chunk that a file has at an offset, checked; None where they are not on local disk."""


def heal(entries: Iterable[Entry], marks: Marks, find: Find, stored: Stored, packs: PackWriter) -> list[Entry]:
    """Store what can be found of the damaged chunks of some files.

    Args:
        stored: What was stored for the version already; gets what is stored here, from the writer.
        packs: Where to; it is finished here.

    Returns:
        The entries that now consist of other chunks.

    Raises:
        StoreError: The store failed.
    """
    affected = []
    found: set[bytes] = set()
    try:
        for entry in entries:
            missing = [(at, chunk) for at, chunk in _chunks(entry) if is_damaged(chunk, marks)]
            for offset, chunk in missing:
                if chunk.hash in stored.chunks or chunk.hash in found:
                    continue
                if (plain := find(entry.path, offset, chunk)) is not None:
                    found.add(chunk.hash)
                    packs.add(encode_frame(plain), chunk.hash, chunk.size_bytes)
            if missing:
                affected.append(entry)
        packs.finish()
    finally:
        packs.close()

    def sound(extent: Extent) -> Extent:
        return (
            stored.chunks.get(extent.hash, extent)
            if isinstance(extent, Chunk) and is_damaged(extent, marks)
            else extent
        )

    healed = [replace(entry, extents=tuple(map(sound, entry.extents))) for entry in affected]
    return [after for before, after in zip(affected, healed, strict=True) if after != before]


def find_on_disk(live: Path, anchors: AnchorCache | None) -> Find:
    """Return what looks for chunks in a live tree and among anchors."""
    top = os.fsencode(live)

    def find(path: bytes, offset_bytes: int, chunk: Chunk) -> bytes | None:
        plain = _read(os.path.join(top, path), offset_bytes, chunk.size_bytes)
        if plain is not None and hash_bytes(plain) == chunk.hash:
            return plain
        place = anchors.place(chunk) if anchors is not None and chunk.base is None else None
        try:
            return read_anchor(place) if place is not None else None
        except (OSError, CorruptObjectError):
            return None

    return find


def _read(path: bytes, offset_bytes: int, size_bytes: int) -> bytes | None:
    try:
        # not to wait for whoever writes into a fifo that has taken the file's place
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        leave_atime(fd)
        return os.pread(fd, size_bytes, offset_bytes)
    except OSError:
        return None
    finally:
        os.close(fd)


def _chunks(entry: Entry) -> Iterable[tuple[int, Chunk]]:
    offset = 0
    for extent in entry.extents:
        if isinstance(extent, Chunk):
            yield offset, extent
        offset += extent.size_bytes
