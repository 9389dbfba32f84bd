"""What outlives a server: the connection to the kernel, and what must be known to go on serving it."""

import mmap
import os
import select
import struct
from collections.abc import Mapping

from ckptfs.fs.transport.device import open_device
from ckptfs.fs.transport.ledger import Ledger
from ckptfs.fs.transport.lent import LentMount

_SHARED = struct.Struct("<?7xQ")
"""is_mounted, shown_version"""

DEVICE, LEDGER_A, LEDGER_B, SHARED, LOCK = ROLES = ("device", "ledger-a", "ledger-b", "shared", "lock")
"""What a connection's descriptors are for, whoever holds them; a read-only mount has no lock."""

Descriptors = Mapping[str, int]
"""Role to descriptor."""


class Connection:
    """One connection, held by the keeper and inherited by every server that it forks.

    Args:
        held: The descriptors of one that somebody held while its keeper and its server died; ours from now on.
        lent: A mount that somebody else has made; None if our first server is to mount.

    Raises:
        MountError: /dev/fuse cannot be opened.
    """

    def __init__(self, held: Descriptors | None = None, lent: LentMount | None = None) -> None:
        self.lent = lent
        if held is None:
            self.device_fd = lent.fd if lent is not None else open_device()
            self.ledger = Ledger()
            self._shared_fd = os.memfd_create("ckptfs-shared", os.MFD_CLOEXEC)
            os.ftruncate(self._shared_fd, _SHARED.size)
        else:
            self.device_fd = held[DEVICE]
            self.ledger = Ledger((held[LEDGER_A], held[LEDGER_B]))
            self._shared_fd = held[SHARED]
        self._shared = mmap.mmap(self._shared_fd, _SHARED.size)
        self.lock_fd = held.get(LOCK, -1) if held is not None else -1
        """Of the cache directory, as the first server locked it; -1 for a read-only mount."""

    def descriptors(self) -> dict[str, int]:
        """Return all that another process needs to go on with the connection."""
        first, second = self.ledger.fds
        held = {DEVICE: self.device_fd, LEDGER_A: first, LEDGER_B: second, SHARED: self._shared_fd}
        return held | ({LOCK: self.lock_fd} if self.lock_fd >= 0 else {})

    @property
    def is_mounted(self) -> bool:
        """True once a server has served it: the next one takes over."""
        return bool(_SHARED.unpack_from(self._shared)[0])

    @property
    def shown_version(self) -> int:
        """What a read-only mount shows; 0 while its store is empty."""
        return int(_SHARED.unpack_from(self._shared)[1])

    def mounted(self) -> None:
        """A server has mounted with it, or begun to serve a mount that was lent."""
        _SHARED.pack_into(self._shared, 0, True, self.shown_version)

    def shows(self, version: int) -> None:
        """A read-only mount shows a version."""
        _SHARED.pack_into(self._shared, 0, self.is_mounted, version)

    def keep_lock(self, fd: int) -> None:
        """Keep a descriptor that holds the lock of the cache directory."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
        self.lock_fd = fd

    def close(self) -> None:
        """Let go of it: when the servers have ended, the mount is dead."""
        self.keep_lock(-1)
        os.close(self.device_fd)
        if self.lent is not None:
            self.lent.close()
        self.ledger.close()
        self._shared.close()
        os.close(self._shared_fd)


def is_connected(held: Descriptors) -> bool:
    """True if a mount still goes with the descriptors: it can be gone on with."""
    if not set(ROLES) - {LOCK} <= set(held):
        return False
    look = select.poll()
    look.register(held[DEVICE], 0)
    return not look.poll(0)
