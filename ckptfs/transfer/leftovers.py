"""What a restore that was killed left in its target: things under temporary names, some of them files that only lack
chunks. The next restore goes on with those that it needs and removes the others.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from ckptfs.format.manifest import Chunk, Entry, Kind, Tree
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.materialize import TreeWriter
from ckptfs.transfer.temporary import content_token, token_of


class Partial(NamedTuple):
    """A file of which some chunks are there."""

    temporary: bytes
    """Its path."""
    chunks: frozenset[int]
    """Offsets of the chunks that are there and right."""


def is_worth_keeping(entry: Entry) -> bool:
    """True if half of a file saves the next restore something: what has one chunk is there or not."""
    return len(entry.extents) > 1


def take_up(writer: TreeWriter, tree: Tree) -> dict[bytes, Partial]:
    """Clear away what an earlier restore left half done, but for what the files of a tree can be completed from.

    Only where no other restore works on the same target now. Of one that works on a directory above or below that as a
    target of its own nothing is known: it fails, as its files go.

    Args:
        tree: The entries that are to be restored; their directories exist.

    Returns:
        By path of the file that is to be.
    """
    if not writer.be_alone():
        return {}
    directories = {path.rpartition(b"/")[0] for path in tree if path}
    directories |= {path for path, entry in tree.items() if entry.kind is Kind.DIRECTORY}
    left = [path for directory in sorted(directories) for path in writer.temporary_in(directory) if path not in tree]
    partials = _partials(writer, tree, left) if left else {}
    kept = {partial.temporary for partial in partials.values()}
    for path in left:
        if path not in kept:
            # not somebody else's, in a directory that is open to all
            with suppress(PermissionError):
                writer.remove(path)
    return partials


def _partials(writer: TreeWriter, tree: Tree, left: Iterable[bytes]) -> dict[bytes, Partial]:
    wanted = {
        (path.rpartition(b"/")[0], content_token(entry)): entry
        for path, entry in tree.items()
        if entry.kind is Kind.FILE and is_worth_keeping(entry)
    }
    found: dict[bytes, Partial] = {}
    for path in left:
        directory, _, name = path.rpartition(b"/")
        entry = wanted.get((directory, token_of(name) or b""))
        if entry is not None and entry.path not in found:
            chunks = _chunks_in(writer, path, entry)
            if chunks:
                found[entry.path] = Partial(path, chunks)
    return found


def _chunks_in(writer: TreeWriter, path: bytes, entry: Entry) -> frozenset[int]:
    """Return the offsets of an entry's chunks that a file holds; none if it cannot become that entry's."""
    try:
        fd = writer.open_file(path, os.O_RDWR)
    except OSError:
        return frozenset()
    try:
        status = os.fstat(fd)
        if status.st_size != entry.size_bytes or status.st_nlink != 1 or status.st_uid != os.geteuid():
            return frozenset()
        return frozenset(_right_chunks(fd, entry))
    except _NoHoleError:
        return frozenset()
    finally:
        os.close(fd)


def _right_chunks(fd: int, entry: Entry) -> Iterable[int]:
    offset = 0
    for extent in entry.extents:
        is_empty = is_hole(fd, offset, extent.size_bytes)
        if not isinstance(extent, Chunk):
            if not is_empty:
                raise _NoHoleError
        # what has not been written is not read
        elif not is_empty and hash_bytes(os.pread(fd, extent.size_bytes, offset)) == extent.hash:
            yield offset
        offset += extent.size_bytes


class _NoHoleError(Exception):
    """There are bytes where the entry has a hole."""


def is_hole(fd: int, offset: int, size_bytes: int) -> bool:
    """True if a range of an open file holds no data."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + size_bytes
    except OSError:
        # ENXIO: no data from here to the end
        return True
