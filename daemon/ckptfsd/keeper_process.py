"""One keeper process as the daemon sees it: a child that it started, or one that an earlier daemon did.

Nothing here waits in a system call, and nothing touches a mount.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckptfs.errors import CkptfsError, MountError
from ckptfs.fs import supervised
from ckptfs.fs.options import MountOptions
from ckptfs.fs.supervised import Label, Running
from ckptfs.fs.transport.handover import Descriptors

OnDescriptors = Callable[[dict[str, int]], None]
"""Gets what another keeper could go on with, ours from then on; {} when that is over."""


class KeeperProcess:
    """A keeper, from its start or from when it was found.

    Args:
        pid: Its process.
        process: It, if it is our child.
        channel: On which it speaks, if it was told to speak to us.
    """

    def __init__(
        self,
        pid: int,
        process: subprocess.Popen[bytes] | None = None,
        channel: socket.socket | None = None,
        on_descriptors: OnDescriptors = lambda fds: None,
    ) -> None:
        self.pid = pid
        self.cache: Path | None = None
        """The store's directory in its cache directory, once it is known."""
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """Its exit code (negative: minus the signal that killed it), None if it is not our child."""
        self._process = process
        self._channel = channel
        self._on_descriptors = on_descriptors
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        # before anything is decided about it: from now on its number cannot become another's
        self._fd = os.pidfd_open(pid)
        self._loop.add_reader(self._fd, self._has_ended)
        if channel is not None:
            channel.setblocking(False)
            self._loop.add_reader(channel, self._hear)

    @classmethod
    def of(cls, running: Running) -> "KeeperProcess":
        """Watch one that was found. Raises ProcessLookupError: It has ended meanwhile."""
        found = cls(running.pid)
        # now that its number stays its own: is it still the one that was found?
        if supervised.look(running.pid) != running:
            found.forget()
            raise ProcessLookupError
        return found

    @classmethod
    def start(
        cls,
        label: Label,
        options: MountOptions,
        held: Descriptors,
        environment: Mapping[str, str],
        on_descriptors: OnDescriptors,
    ) -> "KeeperProcess":
        """Start one. Arguments as of supervised.start."""
        process, channel = supervised.start(label, options, held, environment)
        return cls(process.pid, process, channel, on_descriptors)

    async def ready(self) -> None:
        """Return when the mount is there. Raises CkptfsError: What keeps it from mounting."""
        either: list[asyncio.Future[Any]] = [self._ready, self.ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        self._hear()
        if self._ready.done():
            self._ready.result()
        else:
            raise MountError(f"the keeper ended before it was ready ({_ending(self.ended.result())})")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except (ProcessLookupError, OSError):
            return

    def forget(self) -> None:
        """Stop watching; it goes on."""
        self._close()

    def _has_ended(self) -> None:
        code = self._process.poll() if self._process is not None else None
        self._hear()
        self._close()
        if not self.ended.done():
            self.ended.set_result(code)

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._close_channel()
        if self._process is not None and self._process.returncode is None:
            # it goes on without us: nobody is to warn that it was not waited for
            self._process.returncode = 0

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _hear(self) -> None:
        """Take all that it has said."""
        while self._channel is not None:
            try:
                message, fds = supervised.receive(self._channel)
            except BlockingIOError:
                return
            except OSError:
                message, fds = None, {}
            if message is None:
                self._close_channel()
                return
            self._take(message, fds)

    def _take(self, message: Mapping[str, Any], fds: dict[str, int]) -> None:
        if "roles" in message:
            self._on_descriptors(fds)
        elif "error" in message and not self._ready.done():
            error = CkptfsError(str(message["error"]), hint=message["hint"])
            error.errno = int(message["errno"])
            self._ready.set_exception(error)
        elif "ready" in message and not self._ready.done():
            self.cache = Path(message["cache"])
            self._ready.set_result(None)


def _ending(code: int | None) -> str:
    if code is None:
        return "how is not known"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
