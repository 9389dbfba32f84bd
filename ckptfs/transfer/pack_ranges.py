"""Planning reads: which ranges of which packs to ask for, so that few requests bring the chunks that are wanted.

Pure. A chunk that several files share is asked for once, neighbours in a pack come together, and the requests are in
the order in which the chunks were first wanted.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ckptfs.format.manifest import Chunk

# 256 KiB: 3 ms at the 100 MB/s of one connection, less than a request to S3 takes
MAX_GAP_BYTES = 256 << 10
# 16 MiB: eight of them in flight are 128 MiB of memory; at 100 MB/s each takes ten times as long as its request waits
MAX_RANGE_BYTES = 16 << 20


class PackRange(NamedTuple):
    """One request: a range of a pack, and the chunks in it."""

    pack: str
    offset_bytes: int
    size_bytes: int
    chunks: tuple[Chunk, ...]
    """By offset in the pack."""


def plan_ranges(chunks: Iterable[Chunk]) -> list[PackRange]:
    """Return the requests that bring a set of chunks.

    Args:
        chunks: In the order in which they are wanted; repetitions are welcome.

    Returns:
        Ranges of at most MAX_RANGE_BYTES (a larger single frame makes a range of its own), with gaps of less than
        MAX_GAP_BYTES between the frames of one range; every distinct chunk is in exactly one.
    """
    wanted: dict[Chunk, int] = {}
    for chunk in chunks:
        wanted.setdefault(chunk, len(wanted))
    by_pack: dict[str, list[Chunk]] = {}
    for chunk in wanted:
        by_pack.setdefault(chunk.pack, []).append(chunk)
    ranges: list[PackRange] = []
    for pack, members in by_pack.items():
        members.sort(key=lambda chunk: chunk.offset_bytes)
        ranges.extend(_coalesce(pack, members))
    return sorted(ranges, key=lambda span: min(wanted[chunk] for chunk in span.chunks))


def split_range(span: PackRange) -> list[PackRange]:
    """Return one request for each chunk of a range."""
    return [PackRange(span.pack, chunk.offset_bytes, chunk.stored_bytes, (chunk,)) for chunk in span.chunks]


def _coalesce(pack: str, chunks: list[Chunk]) -> Iterable[PackRange]:
    start = end = 0
    members: list[Chunk] = []
    for chunk in chunks:
        chunk_end = chunk.offset_bytes + chunk.stored_bytes
        if members and (chunk.offset_bytes - end >= MAX_GAP_BYTES or chunk_end - start > MAX_RANGE_BYTES):
            yield PackRange(pack, start, end - start, tuple(members))
            members = []
        if not members:
            start = end = chunk.offset_bytes
        members.append(chunk)
        end = max(end, chunk_end)
    if members:
        yield PackRange(pack, start, end - start, tuple(members))
