"""One mount that is kept up: the difference between what is wanted and what runs, removed step by step.

    down -> starting -> mounted -> stopping -> down
    starting -> waiting -> starting    it cannot be mounted: tried again after 1 s, 2 s, ... 60 s
    mounted -> starting                its keeper has ended; at once if the connection is held

Settings that concern only the process that serves it are changed under open files: the process is replaced by one with
the new settings, which takes over.
"""

import asyncio
import enum
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptfs import logs
from ckptfs.cache.directory import CacheDirectory, store_directory_name
from ckptfs.errors import CkptfsError, MountError
from ckptfs.fs import supervised
from ckptfs.fs.kept import Kept, list_left
from ckptfs.fs.keys import KEY_VARIABLE
from ckptfs.fs.mountpoint import detach, is_mounted
from ckptfs.fs.options import MountOptions
from ckptfs.fs.supervised import Label, Running
from ckptfsd.configuration import MountSettings
from ckptfsd.held import HeldConnection
from ckptfsd.keeper_process import KeeperProcess
from ckptfsd.servers import kill, kill_all
from ckptfsd.settings_change import changed, is_same_mount, is_same_to_the_kernel

log = logging.getLogger("ckptfsd")

_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
_TOO_SHORT_S = 10.0
"""A mount that has lived so long is not about to fail for the reason that the last one did."""
_STOP_MARGIN_S = 60.0
"""What unmounting may take besides its drain-timeout, saving on exit above all; a server that takes longer hangs."""


class State(enum.StrEnum):
    """Of a mount."""

    DOWN = "down"
    """Nobody wants it up."""
    STARTING = "starting"
    MOUNTED = "mounted"
    WAITING = "waiting"
    """It cannot be mounted now, and will be tried again."""
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Left:
    """What a mount that ended left behind."""

    versions: int
    """That are not durable."""
    bytes: int
    cache: Path | None


class SupervisedMount:
    """One mount of the configuration.

    Args:
        supervisor: The daemon's name, which its keepers bear.
        name: Of the mount.
        held: What is held of a connection already.
        on_change: Called when its state has changed.
        log_format: Of its processes' lines.
    """

    def __init__(
        self,
        supervisor: str,
        name: str,
        held: HeldConnection | None = None,
        on_change: Callable[[], None] = lambda: None,
        log_format: str = "text",
    ) -> None:
        self.name = name
        self.state = State.DOWN
        self.error: CkptfsError | None = None
        """Why it is not up."""
        self.starts = 0
        """How often its keeper had to be started."""
        self.left: Left | None = None
        """By the last end."""
        self.since_s = time.time()
        """When it came into its state."""
        self._supervisor = supervisor
        self._held = held or HeldConnection(name)
        self._on_change = on_change
        self._log_format = log_format
        self._wanted: MountSettings | None = None
        self._running: MountSettings | None = None
        self._keeper: KeeperProcess | None = None
        self._is_replacing = False
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._pause_s = _FIRST_PAUSE_S
        self._started_s = 0.0
        self._task: asyncio.Task[None] | None = None

    # what others ask

    @property
    def settings(self) -> MountSettings | None:
        """What it is to be, or was."""
        return self._wanted or self._running

    @property
    def keeper_pid(self) -> int | None:
        """Of the keeper that runs."""
        return self._keeper.pid if self._keeper is not None else None

    @property
    def cache(self) -> Path | None:
        """The store's directory in its cache directory, once it is known."""
        return self._keeper.cache if self._keeper is not None else None

    @property
    def is_held(self) -> bool:
        """True if it outlives its keeper and its server."""
        return self._held.is_usable

    def adopt(self, running: Running, settings: MountSettings | None) -> None:
        """Take over what an earlier daemon started; `want` says what becomes of it.

        Args:
            settings: What it is known to be; None if the configuration does not have it any more.

        Raises:
            ProcessLookupError: It has just ended.
        """
        keeper = KeeperProcess.of(running)
        options = running.options
        keeper.cache = _cache_of(options)
        is_same = settings is not None and settings.environment_digest == running.label.environment
        environment = settings.environment if settings is not None and is_same else {"": ""}
        self._running = MountSettings(name=self.name, options=options, environment=environment)
        self._keeper, self._started_s = keeper, time.monotonic()
        self._set(State.MOUNTED)
        log.info(
            "found mount=%s pid=%d mountpoint=%s held=%s", self.name, running.pid, options.mountpoint, self.is_held
        )

    def want(self, settings: MountSettings | None) -> None:
        """Have it be so, None for not at all; what that takes happens in the background."""
        if settings != self._wanted or (settings is None and self._keeper is not None):
            self._pause_s = _FIRST_PAUSE_S
        self._wanted = settings
        self._settled.clear()
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"mount {self.name}")

    async def settled(self) -> None:
        """Return when it is as it is wanted, or could not be made so at the first attempt."""
        await self._settled.wait()

    def hurry(self) -> None:
        """Wait for uploads no longer, if it is stopping."""
        if self.state is State.STOPPING and self._keeper is not None:
            self._keeper.signal(signal.SIGTERM)

    def replace_server(self, why: str) -> None:
        """Kill the process that serves it: another takes over."""
        if self._keeper is None:
            return
        # one whose keeper is gone has none to fork another, but us
        for running in supervised.servers_of(self._keeper.pid) or supervised.find(self._supervisor, self.name):
            log.warning("replaced the server mount=%s pid=%d why=%r", self.name, running.pid, why)
            kill(running)

    async def leave(self) -> None:
        """Let go of it: it stays mounted, and the next daemon finds it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._keeper is not None:
            self._keeper.forget()

    # what is done

    async def _run(self) -> None:
        while True:
            self._news.clear()
            try:
                if self._keeper is not None:
                    await self._look_after(self._keeper)
                elif self._wanted is not None:
                    await self._start(self._wanted)
                else:
                    self._held.drop()
                    self._set(State.DOWN)
                    self._settled.set()
                    return
            except Exception as error:
                # whatever it is: a mount that nobody looks after any more would be worse
                log.exception("could not look after mount=%s", self.name)
                self.error = MountError(f"{type(error).__name__}: {error}")
                await self._pause()

    async def _start(self, settings: MountSettings) -> None:
        if self._held.fds and not self._held.is_usable:
            self._held.drop()
        goes_on = bool(self._held.fds)
        if goes_on:
            await self._kill_rest()
        self._set(State.STARTING)
        self.starts += 1
        label = Label(self._supervisor, self.name, settings.environment_digest)
        keeper = KeeperProcess.start(
            label, settings.options, self._held.fds, self._environment(settings), self._held.replace
        )
        self._keeper, self._running, self._started_s = keeper, settings, time.monotonic()
        ready = asyncio.ensure_future(keeper.ready())
        try:
            while not ready.done():
                await _first(ready, self._news)
                self._news.clear()
                if self._wanted != settings and not ready.done():
                    keeper.signal(signal.SIGTERM)
            ready.result()
        except CkptfsError as error:
            await keeper.ended
            self._keeper = self._running = None
            self._held.drop()
            if self._wanted == settings:
                self._failed(error)
                await self._pause()
            return
        self.error = None
        self._set(State.MOUNTED)
        self._settled.set()
        log.info(
            "%s mount=%s pid=%d store=%s mountpoint=%s",
            "went on with" if goes_on else "mounted",
            *(self.name, keeper.pid, settings.options.store, settings.options.mountpoint),
        )
        if self._wanted != settings:
            self._news.set()

    async def _look_after(self, keeper: KeeperProcess) -> None:
        wanted, running = self._wanted, self._running
        if wanted is None or running is None:
            await self._stop(keeper)
            return
        if is_same_mount(running, wanted):
            self._running = wanted
            self._settled.set()
            await _first(keeper.ended, self._news)
        elif is_same_to_the_kernel(running.options, wanted.options) and self._held.is_usable:
            log.info("changing mount=%s under open files settings=%s", self.name, ",".join(changed(running, wanted)))
            self._is_replacing = True
            keeper.signal(signal.SIGKILL)
            await keeper.ended
        else:
            log.info("changing mount=%s by mounting anew settings=%s", self.name, ",".join(changed(running, wanted)))
            await self._stop(keeper)
            return
        if keeper.ended.done():
            await self._has_ended(keeper)

    async def _stop(self, keeper: KeeperProcess) -> None:
        """Unmount, and return when what was captured is durable, or the time for that is over."""
        self._set(State.STOPPING)
        log.info("stopping mount=%s pid=%d", self.name, keeper.pid)
        keeper.signal(signal.SIGTERM)
        running = self._running
        patience_s = running.options.drain_timeout_s + _STOP_MARGIN_S if running is not None else None
        await asyncio.wait({keeper.ended}, timeout=patience_s)
        if not keeper.ended.done() and running is not None:
            log.error("ended a mount that did not end mount=%s waited_s=%.0f", self.name, patience_s)
            keeper.signal(signal.SIGKILL)
            await self._kill_rest()
            self._held.drop()
            await asyncio.to_thread(_take_away, running.options.mountpoint)
        code = await keeper.ended
        self._keeper = self._running = None
        self._held.drop()
        self.left = await asyncio.to_thread(_left, keeper.cache) if running and not running.options.read_only else None
        if self.left is not None and self.left.versions:
            log.warning(
                "stopped mount=%s exit_code=%s left_versions=%d left_bytes=%d cache=%s",
                *(self.name, code, self.left.versions, self.left.bytes, self.left.cache),
            )
        else:
            log.info("stopped mount=%s exit_code=%s left_versions=0", self.name, code)

    async def _has_ended(self, keeper: KeeperProcess) -> None:
        """The keeper is gone, and the mount is still wanted."""
        code, lived_s = keeper.ended.result(), time.monotonic() - self._started_s
        self._keeper, running, self._running = None, self._running, None
        was_replaced, self._is_replacing = self._is_replacing, False
        place = running.options.mountpoint if running is not None else Path("/")
        goes_on = self._held.is_usable and is_mounted(place)
        if not goes_on:
            # somebody who has files open there is to be told now that it is gone
            self._held.drop()
            await self._adopt_orphan(place)
        if was_replaced or self._keeper is not None:
            return
        what = "goes on with the connection" if goes_on else "mounting again"
        log.warning("the keeper ended mount=%s exit_code=%s lived_s=%.0f: %s", self.name, code, lived_s, what)
        if lived_s < _TOO_SHORT_S:
            await self._pause()
        else:
            self._pause_s = _FIRST_PAUSE_S

    async def _adopt_orphan(self, place: Path) -> None:
        """A keeper that was killed may have left a server that goes on: look after that one."""
        if not is_mounted(place):
            return
        rest = await asyncio.to_thread(supervised.find, self._supervisor, self.name)
        if rest:
            try:
                self.adopt(rest[0], self._wanted)
            except ProcessLookupError:
                return

    async def _kill_rest(self) -> None:
        """End a server that outlived its keeper."""
        if not await kill_all(self._supervisor, self.name):
            self._held.drop()

    async def _pause(self) -> None:
        """Wait, a little longer each time, unless something else is wanted meanwhile."""
        self._set(State.WAITING)
        self._settled.set()
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LAST_PAUSE_S)
        try:
            # jitter: the mounts of many machines meet one store that has come back
            await asyncio.wait_for(self._news.wait(), pause_s * random.uniform(0.7, 1.0))
        except TimeoutError:
            return

    def _failed(self, error: CkptfsError) -> None:
        hint = f" hint={error.hint!r}" if error.hint else ""
        log.error("could not mount mount=%s error=%r%s again_in_s=%.0f", self.name, error.fact, hint, self._pause_s)
        self.error = error

    def _environment(self, settings: MountSettings) -> dict[str, str]:
        left_out = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", KEY_VARIABLE)
        given = {key: value for key, value in os.environ.items() if key not in left_out}
        return {**given, logs.FORMAT_VARIABLE: self._log_format, logs.MOUNT_VARIABLE: self.name, **settings.environment}

    def _set(self, state: State) -> None:
        if state is not self.state:
            self.state, self.since_s = state, time.time()
            self._on_change()


def _take_away(mountpoint: Path) -> None:
    if is_mounted(mountpoint):
        detach(mountpoint)


def _cache_of(options: MountOptions) -> Path | None:
    """Return where a mount works that has not said so to us."""
    found = options.cache_dir / store_directory_name(options.store.rstrip("/"))
    return found if found.is_dir() else None


def _left(cache: Path | None) -> Left:
    kept: list[Kept] = list_left(CacheDirectory(cache)) if cache is not None else []
    return Left(len(kept), sum(each.bytes for each in kept), cache)


async def _first(ended: "asyncio.Future[Any]", news: asyncio.Event) -> None:
    """Return when one of both is there."""
    waiting = asyncio.ensure_future(news.wait())
    try:
        await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
