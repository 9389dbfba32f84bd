"""What the daemon holds of a mount's connection, so that it outlives its processes; the service manager holds a copy.

The copies of the service manager outlive the daemon too. They must go as soon as the mount has ended: while anybody has
the device open, programs with files open there would wait for ever, instead of being told that it is gone.
"""

import os
from collections import defaultdict
from collections.abc import Iterable

from ckptfs.fs.transport.handover import ROLES, is_connected
from ckptfs.service_manager import notify


class HeldConnection:
    """The descriptors of one mount.

    Args:
        name: Of the mount.
        fds: What the service manager has kept, by role; ours from now on.
    """

    def __init__(self, name: str, fds: dict[str, int] | None = None) -> None:
        self._name = name
        self.fds: dict[str, int] = dict(fds or {})

    @property
    def is_usable(self) -> bool:
        """True if a keeper could go on with it."""
        return bool(self.fds) and is_connected(self.fds)

    def replace(self, fds: dict[str, int]) -> None:
        """Hold these, ours from now on, and nothing else; {} for nothing."""
        self.drop()
        self.fds = fds
        for role, fd in fds.items():
            notify("FDSTORE=1", f"FDNAME={role}.{self._name}", fds=[fd])

    def drop(self) -> None:
        """Let go of it."""
        had, self.fds = self.fds, {}
        for role, fd in had.items():
            notify("FDSTOREREMOVE=1", f"FDNAME={role}.{self._name}")
            os.close(fd)


def sort_stored(stored: Iterable[tuple[str, int]]) -> dict[str, HeldConnection]:
    """Return what the service manager kept, by the name of the mount; what nobody knows is closed."""
    by_mount: dict[str, dict[str, int]] = defaultdict(dict)
    for label, fd in stored:
        role, _, name = label.partition(".")
        if role in ROLES and name and role not in by_mount[name]:
            by_mount[name][role] = fd
        else:
            os.close(fd)
    return {name: HeldConnection(name, fds) for name, fds in by_mount.items() if fds}
