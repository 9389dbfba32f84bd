"""The list of what is damaged in a store, chunks and manifest parts, so that the next save that has it stores it again.

Whoever finds that a chunk is not whole in a pack adds a mark: an object whose key says both (FORMAT.md 8). A mark is a
hint. A false one costs an upload; one that is lost, that the next version still refers to what is damaged.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable

from ckptfs.errors import StoreError
from ckptfs.format.keys import (
    DAMAGE_PREFIX,
    damage_key,
    part_damage_key,
    split_damage_key,
    split_part_damage_key,
)
from ckptfs.format.manifest import Chunk
from ckptfs.store.base import Store

Mark = tuple[bytes, str]
"""A chunk's hash and the pack in which it is damaged; or no hash, and the segment or commit record in which manifest
parts are."""
Marks = Collection[Mark]

# 2 s: one LIST, beside the two requests and more of a save; a trainer that saves more often need not ask each time
_LOOK_EVERY_S = 2.0

log = logging.getLogger(__name__)


def is_damaged(chunk: Chunk, marks: Marks) -> bool:
    """Tell whether a chunk, or what it is encoded against, has a mark."""
    return (chunk.hash, chunk.pack) in marks or (chunk.base is not None and is_damaged(chunk.base, marks))


def mark_of(chunk: Chunk) -> Mark:
    """Return the mark of a damaged chunk."""
    return chunk.hash, chunk.pack


def part_mark(holder: str) -> Mark:
    """Return the mark of what holds damaged manifest parts."""
    return b"", holder


class DamageList:
    """The marks of one store; may be used by several threads.

    Args:
        store: Where they are.
        clock: Monotonic, in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._known: frozenset[Mark] = frozenset()
        self._looked_s = -_LOOK_EVERY_S
        self._added: set[Mark] = set()

    def read(self) -> Marks:
        """Return all marks. One LIST for a thousand. Raises StoreError."""
        marks = (_mark_in(info.key) for info in self._store.list(DAMAGE_PREFIX))
        return frozenset(mark for mark in marks if mark is not None)

    def recent(self) -> Marks:
        """Return the marks as they were lately, or as far as they are known where the store does not tell."""
        if self._clock() - self._looked_s >= _LOOK_EVERY_S:
            try:
                self._known = frozenset(self.read())
                self._looked_s = self._clock()
            except StoreError as error:
                log.warning("did not see what is damaged error=%r", error.fact)
        return self._known

    def add(self, marks: Iterable[Mark]) -> None:
        """Add marks. Raises StoreError."""
        for mark in marks:
            if mark not in self._added:
                self._store.put(_key_of(mark), b"")
                self._added.add(mark)

    def note(self, chunk: Chunk) -> None:
        """Mark a chunk that a program was refused; that it cannot be marked is no error."""
        try:
            self.add([mark_of(chunk)])
        except StoreError as error:
            log.warning(
                "did not mark a damaged chunk chunk=%s pack=%s error=%r", chunk.hash.hex(), chunk.pack, error.fact
            )

    def clear(self, *, but: Marks) -> None:
        """Take away all marks but some: what the others are of is whole, or not needed. Raises StoreError."""
        self._store.delete_many([_key_of(mark) for mark in self.read() if mark not in but])


def _key_of(mark: Mark) -> str:
    digest, holder = mark
    return damage_key(digest, holder) if digest else part_damage_key(holder)


def _mark_in(key: str) -> Mark | None:
    holder = split_part_damage_key(key)
    return part_mark(holder) if holder is not None else split_damage_key(key)
