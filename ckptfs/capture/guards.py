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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.capture.copying import copy_data


@dataclass(slots=True, eq=False)
class Slot:
    """Where a pending version is now: its directory changes name when its touch ends."""

    directory: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the directory is renamed, and while it is opened."""

    def open_data(self) -> int:
        """Return a descriptor of its data, which follows the directory. Raises FileNotFoundError when it is durable."""
        with self.lock:
            return os.open(self.directory / "data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@dataclass(slots=True, eq=False)
class _Guard:
    slot: Slot
    index: int
    size_bytes: int


@dataclass(slots=True, eq=False)
class _Turn:
    """Threads that want to protect one inode."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: int = 0


class Guards:
    """All guards of a mount.

    add is called with the gate closed, protect inside it, release by any thread at any time.
    Lock order: an inode's turn, then the table's.
    """

    def __init__(self) -> None:
        self._by_ino: dict[int, tuple[_Guard, ...]] = {}
        """There are as many as files are captured, so that none has a lock of its own."""
        self._turns: dict[int, _Turn] = {}
        self._lock = threading.Lock()

    def add(self, ino: int, slot: Slot, index: int, size_bytes: int) -> None:
        """A pending version now shares this inode."""
        with self._lock:
            self._by_ino[ino] = (*self._by_ino.get(ino, ()), _Guard(slot, index, size_bytes))

    def release(self, slot: Slot) -> None:
        """A pending version is gone (durable, or replaced): nothing of it needs protection."""
        with self._lock:
            for ino, guards in list(self._by_ino.items()):
                self._keep(ino, tuple(guard for guard in guards if guard.slot is not slot))

    def is_guarded(self, ino: int) -> bool:
        """True if a pending version shares this inode."""
        return ino in self._by_ino

    def protect(self, ino: int, offset_bytes: int) -> None:
        """Return when bytes of an inode from an offset on may be changed.

        Raises:
            OSError: There is no room for the copy (ENOSPC); nothing has changed.
        """
        if ino not in self._by_ino:
            return
        with self._turn(ino):
            broken = [guard for guard in self._by_ino.get(ino, ()) if offset_bytes < guard.size_bytes]
            if broken:
                _give_private_copy(broken)
                with self._lock:
                    self._keep(ino, tuple(guard for guard in self._by_ino.get(ino, ()) if guard not in broken))

    def _keep(self, ino: int, guards: tuple[_Guard, ...]) -> None:
        if guards:
            self._by_ino[ino] = guards
        else:
            self._by_ino.pop(ino, None)

    @contextmanager
    def _turn(self, ino: int) -> Iterator[None]:
        """Let one thread at a time look after an inode: who comes second finds the copy made."""
        with self._lock:
            turn = self._turns.setdefault(ino, _Turn())
            turn.threads += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.threads -= 1
                if not turn.threads:
                    del self._turns[ino]


def _give_private_copy(guards: list[_Guard]) -> None:
    """Replace each guard's link by a copy of its own; one copy serves all, for they share the bytes below their sizes.

    A version that became durable in the meantime has no directory any more, and needs none.
    """
    copy_fd = -1
    try:
        # the newest first: it is the last to become durable, and the largest (becoming smaller breaks the others)
        for guard in reversed(guards):
            try:
                data_fd = guard.slot.open_data()
            except FileNotFoundError:
                continue  # it is durable
            try:
                copy_fd = _replace(guard, data_fd, copy_fd)
            except FileNotFoundError:
                continue  # it became durable while it was copied
            finally:
                os.close(data_fd)
    finally:
        if copy_fd >= 0:
            os.close(copy_fd)


def _replace(guard: _Guard, data_fd: int, copy_fd: int) -> int:
    """Rename a private copy over what a guard protects.

    Args:
        data_fd: The directory that holds it.
        copy_fd: A copy that was made for another guard, -1 if there is none yet.

    Returns:
        A descriptor of the copy.
    """
    name, copy = str(guard.index), f"{guard.index}.copy"
    made_fd = -1
    # one that a killed process left may be a name of another version's data by now: it must not be written to
    _unlink(copy, data_fd)
    try:
        if copy_fd >= 0:
            os.link(f"/proc/self/fd/{copy_fd}", copy, dst_dir_fd=data_fd, follow_symlinks=True)
        else:
            made_fd = _copy(name, copy, data_fd, guard.size_bytes)
        os.rename(copy, name, src_dir_fd=data_fd, dst_dir_fd=data_fd)
    except BaseException:
        if made_fd >= 0:
            os.close(made_fd)
        _unlink(copy, data_fd)
        raise
    return max(copy_fd, made_fd)


def _copy(name: str, copy: str, data_fd: int, size_bytes: int) -> int:
    """Copy a file under another name in a directory; return a descriptor of the copy."""
    source_fd = _open(name, data_fd)
    try:
        target_fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=data_fd)
        try:
            copy_data(source_fd, target_fd, size_bytes)
        except BaseException:
            os.close(target_fd)
            raise
    finally:
        os.close(source_fd)
    return target_fd


def _open(name: str, data_fd: int) -> int:
    """Open a file of ours, also one whose mode forbids reading (we are not root)."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=data_fd)
    except PermissionError:
        mode = os.stat(name, dir_fd=data_fd).st_mode & 0o7777
        os.chmod(name, mode | 0o400, dir_fd=data_fd)
        try:
            return os.open(name, flags, dir_fd=data_fd)
        finally:
            os.chmod(name, mode, dir_fd=data_fd)


def _unlink(name: str, data_fd: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=data_fd)
