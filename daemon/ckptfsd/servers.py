"""Processes that serve a mount, found and ended: two must not serve one connection."""

import asyncio
import logging
import signal
import time
from pathlib import Path

from ckptfs.fs import supervised
from ckptfs.fs.supervised import Running
from ckptfsd.keeper_process import KeeperProcess

log = logging.getLogger("ckptfsd")

_KILLED_S = 10.0
"""A killed process is gone within milliseconds, unless the machine is very busy."""
_GRACE_S = 0.3
"""One of its threads may wait in the kernel for an answer that only the next server gives."""


async def kill_all(supervisor: str, mount: str) -> bool:
    """End all that serve a mount; return False if one did not end."""
    deadline_s = time.monotonic() + _KILLED_S
    while rest := await asyncio.to_thread(supervised.find, supervisor, mount):
        if time.monotonic() > deadline_s:
            log.error("could not end mount=%s pid=%d", mount, rest[0].pid)
            return False
        for running in rest:
            kill(running)
        end_s = time.monotonic() + _GRACE_S
        while any(map(_is_there, rest)) and time.monotonic() < end_s:
            await asyncio.sleep(_GRACE_S / 10)
    return True


def kill(running: Running) -> None:
    """End a process that was found, by SIGKILL, and no other that has its number by now."""
    try:
        process = KeeperProcess.of(running)
    except ProcessLookupError:
        return
    process.signal(signal.SIGKILL)
    process.forget()


def _is_there(running: Running) -> bool:
    """True until a process has ended altogether, with all its threads."""
    return Path(f"/proc/{running.pid}").exists()
