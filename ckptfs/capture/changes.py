"""What differs between the live tree and the newest captured version: the set that a capture walks.

Every change of the live tree goes through the mount, so the set is exact, and it is written to the journal before the
change is made. Paths are relative to the mount's root, without a leading slash; the root is b"".
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.capture.journal import Journal, JournalState
from ckptfs.format.manifest import Extent

_ATTRIBUTES, _CONTENT, _NAME = 1, 2, 4
ALL_OF_IT = _ATTRIBUTES | _CONTENT | _NAME
"""What of a path may differ if nothing is known of it."""


Origin = bytes | tuple[Extent, ...]
"""A path in the version before; or, after a restore, the stored content itself."""


@dataclass(slots=True)
class ChangeSet:
    """The changes between two captures."""

    paths: dict[bytes, int] = field(default_factory=dict)
    """Path to what of it may differ (bits)."""
    content: set[int] = field(default_factory=set)
    """Inodes whose bytes may differ."""
    origins: dict[int, Origin] = field(default_factory=dict)
    """Where an inode's unchanged bytes are, if not under its own path in the version before."""
    restored: int | None = None
    """The version that the live tree was restored to."""

    def only_attributes(self, path: bytes) -> bool:
        """True if of a changed path only the attributes were marked."""
        return self.paths[path] == _ATTRIBUTES

    def after(self, earlier: "ChangeSet") -> "ChangeSet":
        """Return this set's changes on top of an earlier set's, as one set relative to the earlier set's base."""
        paths = dict(earlier.paths)
        for path, bits in self.paths.items():
            paths[path] = paths.get(path, 0) | bits
        origins = dict(earlier.origins)
        for ino, origin in self.origins.items():
            origins.setdefault(ino, origin)
        restored = self.restored if self.restored is not None else earlier.restored
        return ChangeSet(paths, earlier.content | self.content, origins, restored)


class Changes:
    """The current change set, kept with the journal.

    Called inside the gate, by several threads.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.current = ChangeSet()
        self.epoch = 1
        """Grows with every capture: an open file that was marked in this epoch need not be marked again."""
        self.times = ChangeTimes()
        self._lock = threading.Lock()

    def mark_content(self, path: bytes, ino: int) -> None:
        """A file's bytes are about to change."""
        with self._lock:
            bits = self.current.paths.get(path, 0)
            if not bits & _CONTENT:
                self.journal.content(path)
                self.current.paths[path] = bits | _CONTENT
            self.current.content.add(ino)

    def mark_name(self, path: bytes) -> None:
        """A name is about to come, go or change its inode."""
        with self._lock:
            bits = self.current.paths.get(path, 0)
            if not bits & _NAME:
                self.journal.name(path)
                self.current.paths[path] = bits | _NAME

    def mark_attributes(self, path: bytes) -> None:
        """Mode, owner, times or xattrs are about to change."""
        with self._lock:
            if path not in self.current.paths:
                self.journal.attributes(path)
                self.current.paths[path] = _ATTRIBUTES

    def moved(self, ino: int, origin: bytes) -> None:
        """An inode loses or shares the path under which the version before knows it."""
        self.journal.moved(ino, origin)
        self.current.origins.setdefault(ino, origin)

    def restoring(self, version: int) -> None:
        """The live tree is about to become another version."""
        self.journal.restored(version)
        self.current.restored = version

    def restored(self, ino: int, content: tuple[Extent, ...]) -> None:
        """An inode was given stored content that the version before need not have under its path."""
        self.current.content.discard(ino)
        self.current.origins[ino] = content

    def forget_inode(self, ino: int) -> None:
        """An inode has no name any more; its number may come back with other bytes."""
        self.times.forget(ino)
        self.current.origins.pop(ino, None)
        self.current.content.discard(ino)

    def go_on(self, state: JournalState, content: set[int], origins: dict[int, Origin]) -> None:
        """Know what a process before this one wrote into the journal.

        Args:
            content: Inodes whose bytes may differ.
            origins: See ChangeSet.
        """
        paths = dict.fromkeys(state.attributes, _ATTRIBUTES)
        for path in state.names:
            paths[path] = paths.get(path, 0) | _NAME
        for path in state.content:
            paths[path] = paths.get(path, 0) | _CONTENT
        self.current = ChangeSet(paths, content, origins, state.restored)

    def take(self) -> ChangeSet:
        """Return the changes and start over: they have been captured."""
        taken, self.current = self.current, ChangeSet()
        self.epoch += 1
        return taken

    def put_back(self, taken: ChangeSet, version: int, commit_id: str) -> None:
        """Count taken changes again: their capture is being undone, and the version before it is the newest."""
        changes = self.current.after(taken)
        content = [path for path, bits in changes.paths.items() if bits & _CONTENT]
        others = [path for path, bits in changes.paths.items() if not bits & _CONTENT]
        moved = [(ino, origin) for ino, origin in changes.origins.items() if isinstance(origin, bytes)]
        self.journal.withdrawn(
            version, commit_id, restored=changes.restored, content=content, names=others, moved=moved
        )
        self.current = changes


class LinkGroups:
    """The names of inodes that have several. Thread-safe."""

    def __init__(self) -> None:
        self._names: dict[int, set[bytes]] = {}
        self._lock = threading.Lock()

    def count(self, ino: int) -> int:
        """Return how many names a named inode has."""
        return len(self._names.get(ino, b"1"))

    def names(self, ino: int) -> frozenset[bytes]:
        """Return all names of an inode that has several, else nothing."""
        with self._lock:
            return frozenset(self._names.get(ino, ()))

    def link(self, ino: int, old: bytes, new: bytes) -> None:
        """An inode known as `old` gets the further name `new`."""
        with self._lock:
            self._names.setdefault(ino, {old}).add(new)

    def unlink(self, ino: int, path: bytes) -> bytes | None:
        """A name goes away. Returns one that is left, None if it was the inode's last."""
        with self._lock:
            names = self._names.get(ino)
            if names is None:
                return None
            names.discard(path)
            if len(names) == 1:
                del self._names[ino]
            return next(iter(names))

    def rename(self, renamed: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Names change, all at once: in an exchange, one may become what another of the same inode was.

        Args:
            renamed: Inodes, with the old and the new path of a name.
        """
        with self._lock:
            grouped = [each for each in renamed if each[0] in self._names]
            for ino, old, _ in grouped:
                self._names[ino].discard(old)
            for ino, _, new in grouped:
                self._names[ino].add(new)

    def clear(self) -> None:
        """Forget all: the tree is being replaced."""
        self._names.clear()

    def groups(self) -> Iterator[tuple[int, frozenset[bytes]]]:
        """Yield inode and names of every group."""
        with self._lock:
            return iter([(ino, frozenset(names)) for ino, names in self._names.items()])
