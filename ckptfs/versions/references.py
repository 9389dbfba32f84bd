"""What a version refers to: chunks, the chunks that those are encoded against, and the packs that hold both.

Whoever decides what a version needs (verifying it, checking it against a collection) asks here: a chunk without its
base is as lost as one without its pack.
"""

from collections.abc import Iterable, Iterator

from ckptfs.format.manifest import Chunk, Entry


def content_chunks(entries: Iterable[Entry]) -> Iterator[Chunk]:
    """Yield the chunks that the files consist of, in the order of the files, each as often as it is named."""
    return (extent for entry in entries for extent in entry.extents if isinstance(extent, Chunk))


def needed_chunks(entries: Iterable[Entry]) -> dict[Chunk, None]:
    """Return every chunk that reading the files takes, bases included, each once; a base comes before who needs it."""
    found: dict[Chunk, None] = {}
    for chunk in content_chunks(entries):
        if chunk.base is not None:
            found.setdefault(chunk.base)
        found.setdefault(chunk)
    return found


def needed_packs(entries: Iterable[Entry]) -> set[str]:
    """Return the keys of all packs that reading the files takes, those of bases included."""
    return {chunk.pack for chunk in needed_chunks(entries)}
