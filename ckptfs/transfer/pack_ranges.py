"""Planning reads: which ranges of which packs to ask for, so that few requests bring the chunks that are wanted.

Pure. A chunk that several files share is asked for once, neighbours in a pack come together, and the requests are in
the order in which the chunks were first wanted. Chunks that are encoded against others come in groups, each with the
bases of all its chunks, so that a base is asked for once and held only while its group is read.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ckptfs.format.manifest import Chunk

# 256 KiB: 3 ms at the 100 MB/s of one connection, less than a request to S3 takes
MAX_GAP_BYTES = 256 << 10
# 16 MiB: eight of them in flight are 128 MiB of memory; at 100 MB/s each takes ten times as long as its request waits
MAX_RANGE_BYTES = 16 << 20
# 8 MiB of plain bases, and as much of the frames that need them: eight groups then take no more than eight ranges
MAX_GROUP_BYTES = 8 << 20


class PackRange(NamedTuple):
    """One request: a range of a pack, and the chunks in it."""

    pack: str
    offset_bytes: int
    size_bytes: int
    chunks: tuple[Chunk, ...]
    """By offset in the pack."""


class ReadGroup(NamedTuple):
    """Requests that belong together."""

    bases: PackRange | None
    """To be read first, and held in plain: what all other chunks of the group are encoded against."""
    ranges: tuple[PackRange, ...]
    """Those of one request where there are no bases."""


def plan_reads(chunks: Iterable[Chunk]) -> list[ReadGroup]:
    """Return the requests that bring a set of chunks and whatever those are encoded against.

    Args:
        chunks: In the order in which they are wanted; repetitions are welcome.

    Returns:
        Groups; every distinct chunk, and every base of one, is in exactly one range of one group. The plain bases of a
        group have at most MAX_GROUP_BYTES, unless there is only one.
    """
    wanted: dict[Chunk, int] = {}
    dependents: dict[Chunk, list[Chunk]] = {}
    for chunk in chunks:
        if chunk not in wanted:
            wanted[chunk] = len(wanted)
            if chunk.base is not None:
                dependents.setdefault(chunk.base, []).append(chunk)
    alone = [chunk for chunk in wanted if chunk.base is None and chunk not in dependents]
    groups = [ReadGroup(None, (span,)) for span in plan_ranges(alone)]
    for span in _spans(dependents, MAX_RANGE_BYTES, MAX_GROUP_BYTES):
        needing = (chunk for base in span.chunks for chunk in dependents[base])
        groups.append(ReadGroup(span, tuple(_spans(needing, MAX_GROUP_BYTES, None))))
    return sorted(groups, key=lambda group: min(wanted[chunk] for span in group.ranges for chunk in span.chunks))


def plan_ranges(chunks: Iterable[Chunk]) -> list[PackRange]:
    """Return the requests that bring a set of chunks, without looking at their bases.

    Args:
        chunks: In the order in which they are wanted; repetitions are welcome.

    Returns:
        Ranges of at most MAX_RANGE_BYTES (a larger single frame makes a range of its own), with gaps of less than
        MAX_GAP_BYTES between the frames of one range; every distinct chunk is in exactly one.
    """
    return _spans(chunks, MAX_RANGE_BYTES, None)


def _spans(chunks: Iterable[Chunk], most_bytes: int, most_plain_bytes: int | None) -> list[PackRange]:
    wanted: dict[Chunk, int] = {}
    for chunk in chunks:
        wanted.setdefault(chunk, len(wanted))
    by_pack: dict[str, list[Chunk]] = {}
    for chunk in wanted:
        by_pack.setdefault(chunk.pack, []).append(chunk)
    ranges: list[PackRange] = []
    for pack, members in by_pack.items():
        members.sort(key=lambda chunk: chunk.offset_bytes)
        ranges.extend(_coalesce(pack, members, most_bytes, most_plain_bytes))
    return sorted(ranges, key=lambda span: min(wanted[chunk] for chunk in span.chunks))


def split_range(span: PackRange) -> list[PackRange]:
    """Return one request for each chunk of a range."""
    return [PackRange(span.pack, chunk.offset_bytes, chunk.stored_bytes, (chunk,)) for chunk in span.chunks]


def _coalesce(pack: str, chunks: list[Chunk], most_bytes: int, most_plain_bytes: int | None) -> Iterator[PackRange]:
    start = end = plain_bytes = 0
    members: list[Chunk] = []
    for chunk in chunks:
        chunk_end = chunk.offset_bytes + chunk.stored_bytes
        plain_bytes += chunk.size_bytes
        is_full = chunk_end - start > most_bytes or (most_plain_bytes is not None and plain_bytes > most_plain_bytes)
        if members and (chunk.offset_bytes - end >= MAX_GAP_BYTES or is_full):
            yield PackRange(pack, start, end - start, tuple(members))
            members = []
        if not members:
            start = end = chunk.offset_bytes
            plain_bytes = chunk.size_bytes
        members.append(chunk)
        end = max(end, chunk_end)
    if members:
        yield PackRange(pack, start, end - start, tuple(members))
