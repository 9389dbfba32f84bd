"""Guards: they keep a pending version's bytes from changing while it shares an inode with the live tree.

A captured file is a hard link `data/<index>` to the live inode. Before the live inode is changed below the captured
size, the pending side gets a private copy, renamed over `data/<index>`; the live inode stays as it is, so open handles
and mappings never notice. Writes at or past the captured size (an appended log) need no copy: the pending side reads
only up to that size.

Invariant G1: the copy is in place before the change is made; a reader of `data/<index>` that finds the same inode after
reading as before has read captured bytes.
"""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.capture.copying import copy_data


@dataclass(slots=True)
class Slot:
    """Where a pending version is now: its directory changes name when its touch ends."""

    directory: Path


@dataclass(slots=True)
class _Guard:
    slot: Slot
    index: int
    size_bytes: int

    @property
    def path(self) -> Path:
        return self.slot.directory / "data" / str(self.index)


@dataclass(slots=True)
class _InodeGuards:
    guards: list[_Guard] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Guards:
    """All guards of a mount. add, drop and discard are called with the gate closed or by one thread; protect by any,
    inside the gate.
    """

    def __init__(self) -> None:
        self._by_ino: dict[int, _InodeGuards] = {}

    def add(self, ino: int, slot: Slot, index: int, size_bytes: int) -> None:
        """A pending version now shares this inode."""
        self._by_ino.setdefault(ino, _InodeGuards()).guards.append(_Guard(slot, index, size_bytes))

    def release(self, slot: Slot) -> None:
        """A pending version is gone (durable, or replaced): nothing of it needs protection."""
        for ino, inode in list(self._by_ino.items()):
            with inode.lock:
                inode.guards = [guard for guard in inode.guards if guard.slot is not slot]
            if not inode.guards:
                self._by_ino.pop(ino, None)

    def is_guarded(self, ino: int) -> bool:
        """True if a pending version shares this inode."""
        return ino in self._by_ino

    def protect(self, ino: int, offset_bytes: int) -> None:
        """Return when bytes of an inode from an offset on may be changed.

        Raises:
            OSError: There is no room for the copy (ENOSPC); nothing has changed.
        """
        inode = self._by_ino.get(ino)
        if inode is None:
            return
        with inode.lock:
            broken = [guard for guard in inode.guards if offset_bytes < guard.size_bytes]
            if broken:
                _give_private_copy(broken)
                inode.guards = [guard for guard in inode.guards if guard not in broken]
        if not inode.guards:
            self._by_ino.pop(ino, None)


def _give_private_copy(guards: list[_Guard]) -> None:
    """Replace each guard's link by a private copy; one serves all, for they share the bytes below their sizes."""
    first = max(guards, key=lambda guard: guard.size_bytes)
    try:
        source_fd = os.open(first.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return  # durable in the meantime
    except PermissionError:
        source_fd = _open_unreadable(first.path)
    copy = first.path.with_name(f"{first.index}.copy")
    try:
        target_fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            copy_data(source_fd, target_fd, first.size_bytes)
        finally:
            os.close(target_fd)
        for guard in guards:
            link = guard.path.with_name(f"{guard.index}.link")
            os.link(copy, link)
            os.rename(link, guard.path)
    except FileNotFoundError:
        return
    finally:
        os.close(source_fd)
        copy.unlink(missing_ok=True)


def _open_unreadable(path: Path) -> int:
    """Open a file of ours whose mode forbids reading (we are not root)."""
    mode = os.stat(path).st_mode & 0o7777
    os.chmod(path, mode | 0o400)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    finally:
        os.chmod(path, mode)
