"""How the mounts are, asked through child processes: the daemon itself never touches one, for it would hang with it."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from ckptfs.cli.mounts import read_control
from ckptfs.errors import CkptfsError
from ckptfsd.supervised_mount import State, SupervisedMount

log = logging.getLogger("ckptfsd")

_FRESH_S = 1.0
"""Several who ask at once get one answer."""


class Observer:
    """Asks mounts for their `.status`, each at most once at a time.

    Args:
        hang_timeout_s: A server that has not answered for so long is replaced; 0: never.
    """

    def __init__(self, hang_timeout_s: float) -> None:
        self.hang_timeout_s = hang_timeout_s
        self._seen: dict[str, tuple[float, dict[str, Any]]] = {}
        self._silent_since_s: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def last(self, mount: SupervisedMount) -> dict[str, Any] | None:
        """Return what a mount said when it was asked last, None if it is not up or does not answer."""
        if mount.state not in (State.MOUNTED, State.STOPPING) or mount.name in self._silent_since_s:
            return None
        seen = self._seen.get(mount.name)
        return seen[1] if seen is not None else None

    def silent_s(self, mount: SupervisedMount) -> float:
        """Return for how long a mount that is up has not answered; 0.0 if it does."""
        since_s = self._silent_since_s.get(mount.name)
        return time.monotonic() - since_s if since_s is not None and mount.state is State.MOUNTED else 0.0

    async def ask(self, mounts: Mapping[str, SupervisedMount]) -> None:
        """Ask those that are up, unless that was done a moment ago; one that does not answer is waited for 5 s."""
        for name in self._seen.keys() - mounts.keys():
            self._forget(name)
        for mount in mounts.values():
            if mount.state is not State.MOUNTED:
                self._forget(mount.name)
            elif mount.name not in self._asking and not self._is_fresh(mount.name):
                self._asking[mount.name] = asyncio.create_task(self._ask(mount))
        if self._asking:
            await asyncio.wait(self._asking.values())

    def _is_fresh(self, name: str) -> bool:
        seen = self._seen.get(name)
        return seen is not None and time.monotonic() - seen[0] < _FRESH_S

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._silent_since_s.pop(name, None)

    async def _ask(self, mount: SupervisedMount) -> None:
        settings = mount.settings
        try:
            if settings is None:
                return
            status = await asyncio.to_thread(read_control, settings.options.mountpoint, ".status")
            self._seen[mount.name] = (time.monotonic(), status)
            self._silent_since_s.pop(mount.name, None)
        except CkptfsError as error:
            self._is_silent(mount, error)
        finally:
            self._asking.pop(mount.name, None)

    def _is_silent(self, mount: SupervisedMount, error: CkptfsError) -> None:
        if mount.state is not State.MOUNTED:
            return
        if mount.name not in self._silent_since_s:
            self._silent_since_s[mount.name] = time.monotonic()
            log.warning("no answer mount=%s error=%r", mount.name, error.fact)
        silent_s = self.silent_s(mount)
        if self.hang_timeout_s and silent_s > self.hang_timeout_s:
            self._silent_since_s[mount.name] = time.monotonic()
            mount.replace_server(f"it has not answered for {silent_s:.0f} s")
