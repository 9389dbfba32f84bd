"""What outlives a server: the connection to the kernel, and what must be known to go on serving it."""

import mmap
import os
import struct

from ckptfs.fs.transport.device import open_device
from ckptfs.fs.transport.ledger import Ledger

_SHARED = struct.Struct("<?7xQ")
"""is_mounted, shown_version"""


class Connection:
    """One connection, held by the keeper and inherited by every server that it forks.

    Raises:
        MountError: /dev/fuse cannot be opened.
    """

    def __init__(self) -> None:
        self.device_fd = open_device()
        self.ledger = Ledger()
        self._shared = mmap.mmap(-1, _SHARED.size)
        self.lock_fd = -1
        """Of the cache directory, as the first server locked it; -1 for a read-only mount."""

    @property
    def is_mounted(self) -> bool:
        """True once a server has mounted with it: the next one takes over."""
        return bool(_SHARED.unpack_from(self._shared)[0])

    @property
    def shown_version(self) -> int:
        """What a read-only mount shows; 0 while its store is empty."""
        return int(_SHARED.unpack_from(self._shared)[1])

    def mounted(self) -> None:
        """A server has mounted with it."""
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
        self.ledger.close()
        self._shared.close()
