"""The list of a store's damaged chunks, so that the next save that has their bytes stores them again.

Whoever finds that a chunk is not whole in a pack adds a mark: an object whose key says both (FORMAT.md 7). A mark is a
hint. A false one costs an upload; one that is lost, that the next version still refers to the damaged chunk.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable

from ckptfs.errors import StoreError
from ckptfs.format.keys import DAMAGE_PREFIX, damage_key, split_damage_key
from ckptfs.format.manifest import Chunk
from ckptfs.store.base import Store

Marks = Collection[tuple[bytes, str]]
"""Hash and pack of each chunk that is damaged."""

# 2 s: one LIST, beside the two requests and more of a save; a trainer that saves more often need not ask each time
_LOOK_EVERY_S = 2.0

log = logging.getLogger(__name__)


def is_damaged(chunk: Chunk, marks: Marks) -> bool:
    """Tell whether a chunk, or what it is encoded against, has a mark."""
    return (chunk.hash, chunk.pack) in marks or (chunk.base is not None and is_damaged(chunk.base, marks))


class DamageList:
    """The marks of one store; may be used by several threads.

    Args:
        store: Where they are.
        clock: Monotonic, in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._known: frozenset[tuple[bytes, str]] = frozenset()
        self._looked_s = -_LOOK_EVERY_S
        self._added: set[Chunk] = set()

    def read(self) -> Marks:
        """Return all marks. One LIST for a thousand. Raises StoreError."""
        marks = (split_damage_key(info.key) for info in self._store.list(DAMAGE_PREFIX))
        return frozenset(mark for mark in marks if mark is not None)

    def recent(self) -> Marks:
        """Return the marks as they were lately, or as far as they are known where the store does not tell."""
        if self._clock() - self._looked_s >= _LOOK_EVERY_S:
            try:
                self._known = frozenset(self.read())
                self._looked_s = self._clock()
            except StoreError as error:
                log.warning("did not see which chunks are damaged error=%r", error.fact)
        return self._known

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Mark chunks. Raises StoreError."""
        for chunk in chunks:
            if chunk not in self._added:
                self._store.put(damage_key(chunk.hash, chunk.pack), b"")
                self._added.add(chunk)

    def note(self, chunk: Chunk) -> None:
        """Mark a chunk that a program was refused; that it cannot be marked is no error."""
        try:
            self.add([chunk])
        except StoreError as error:
            log.warning(
                "did not mark a damaged chunk chunk=%s pack=%s error=%r", chunk.hash.hex(), chunk.pack, error.fact
            )

    def clear(self, *, but: Iterable[Chunk]) -> None:
        """Take away all marks but those of some chunks: the others are whole, or not needed. Raises StoreError."""
        kept = {(chunk.hash, chunk.pack) for chunk in but}
        self._store.delete_many([damage_key(*mark) for mark in self.read() if mark not in kept])
