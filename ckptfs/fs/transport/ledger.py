"""The ledger: what the kernel has been told, for the server that takes over when this one is killed.

The kernel goes on using the node ids, file handles and backing ids of a server that has died; so every one is written
down before the kernel learns of it. The ledger lives as long as the connection: in memory (memfd), held by the keeper,
which also holds /dev/fuse. Writing costs one pwrite(2) of some ten bytes, and fails only when memory has run out.

A record is a tuple of what `marshal` can write (numbers, bytes, tuples), its first element the kind. Two files take
turns: a rewrite fills the other one and makes it valid by its generation, the last bytes to be written.

    generation: u64 | record: u32 length, then the tuple | ...

Invariant L1: killed at any moment, it holds every record whose append returned, and nothing that was not appended.
"""

import logging
import marshal
import os
import struct
import threading
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)

Record = tuple[Any, ...]

_GENERATION = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
# 100,000 look-ups; reading them back takes 0.3 s
_LONG_BYTES = 4 << 20


class Ledger:
    """Thread-safe; used by one process at a time, and inherited by those that it forks.

    Args:
        fds: Of one that another process made; None makes a new one.
    """

    def __init__(self, fds: tuple[int, int] | None = None) -> None:
        first, second = fds or (os.memfd_create(f"ckptfs-ledger-{side}", os.MFD_CLOEXEC) for side in "ab")
        self._fds = first, second
        self._lock = threading.Lock()
        self._side, self._generation = 0, 1
        self._end = self._rewritten_bytes = 0
        self._is_broken = False
        if fds is None:
            self.rewrite(())

    @property
    def fds(self) -> tuple[int, int]:
        """Its descriptors, for a process that goes on with it."""
        return self._fds

    @property
    def is_long(self) -> bool:
        """True if a rewrite would make it much shorter."""
        return self._end > _LONG_BYTES + 2 * self._rewritten_bytes

    def append(self, record: Record) -> None:
        """Write a record down."""
        data = marshal.dumps(record)
        data = _LENGTH.pack(len(data)) + data
        with self._lock:
            if self._is_broken:
                return
            try:
                self._end += os.pwrite(self._fds[self._side], data, self._end)
            except OSError:
                self.give_up("out of memory for the ledger")

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace all records; the caller sees to it that none is appended meanwhile."""
        rows = (marshal.dumps(record) for record in records)
        data = bytes(_GENERATION.size) + b"".join(_LENGTH.pack(len(row)) + row for row in rows)
        with self._lock:
            if self._is_broken:
                return
            fd = self._fds[1 - self._side]
            try:
                os.ftruncate(fd, 0)
                os.pwrite(fd, data, 0)
                os.pwrite(fd, _GENERATION.pack(self._generation + 1), 0)
            except OSError:
                self.give_up("out of memory for the ledger")
                return
            self._side, self._generation = 1 - self._side, self._generation + 1
            self._end = self._rewritten_bytes = len(data)

    def records(self) -> list[Record]:
        """Return all records, and go on behind them; called once, by who takes over."""
        with self._lock:
            sides = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in self._fds]
            generations = [_GENERATION.unpack_from(side)[0] if len(side) >= 8 else 0 for side in sides]
            self._side = generations.index(max(generations))
            self._generation = generations[self._side]
            data, found = sides[self._side], []
            self._end = _GENERATION.size
            while len(data) >= self._end + _LENGTH.size:
                (length,) = _LENGTH.unpack_from(data, self._end)
                end = self._end + _LENGTH.size + length
                if not length or end > len(data):
                    break  # killed while it was written
                found.append(marshal.loads(data[self._end + _LENGTH.size : end]))
                self._end = end
            os.ftruncate(self._fds[self._side], self._end)
            return found

    def close(self) -> None:
        """Let go of it; who has inherited it keeps it."""
        for fd in self._fds:
            os.close(fd)

    @property
    def is_usable(self) -> bool:
        """False if nobody can take over."""
        return any(os.fstat(fd).st_size for fd in self._fds)

    def give_up(self, why: str) -> None:
        """Nobody is to take over from this process."""
        if not self._is_broken:
            log.warning("%s: nobody can take over from this process", why)
        self._is_broken = True
        for fd in self._fds:
            os.ftruncate(fd, 0)
