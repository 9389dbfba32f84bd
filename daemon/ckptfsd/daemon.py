"""The daemon: the set of mounts, and what signals and a changed configuration do to it.

    SIGTERM, SIGINT   drain: unmount all, and wait for what was captured; a second one waits no longer. When systemd
                      stops the daemon only to start it again, the mounts go on without it meanwhile
    SIGHUP            take the configuration anew
    SIGUSR1           save every mount

An invalid configuration changes nothing; what is wrong with it is logged, and shown until it has been put right.
"""

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptfs import service_manager
from ckptfs.cli.daemon_socket import socket_path
from ckptfs.errors import CkptfsError, InvalidInputError, MountError
from ckptfs.fs import supervised
from ckptfsd.configuration import Configuration, load_configuration
from ckptfsd.held import sort_stored
from ckptfsd.observing import Observer
from ckptfsd.supervised_mount import State, SupervisedMount
from ckptfsd.watching import ConfigurationWatcher

log = logging.getLogger("ckptfsd")

_FIRST_ATTEMPT_S = 60.0
"""How long READY waits for mounts that are being made: longer than a dead writer's lease (30 s)."""
_EXTEND_S = 30.0
"""By how much the service manager is asked to wait longer while versions are uploaded, again and again."""


class NoSuchMountError(InvalidInputError):
    """The daemon keeps no mount of that name."""

    hint = "`ckptfs status` lists the mounts"


class Daemon:
    """Keeps the mounts of a configuration up.

    Args:
        path: Of the configuration.
        configuration: As read from it.
    """

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self.path = path
        self.configuration = configuration
        self.configuration_error: CkptfsError | None = None
        """Why the files as they are now have not been taken."""
        self.mounts: dict[str, SupervisedMount] = {}
        self.held_down: set[str] = set()
        """Unmounted on request: they stay so until somebody asks for them."""
        self.started_s = time.time()
        self.reloads = 0
        self.observer = Observer(configuration.daemon.hang_timeout)
        self._stop = asyncio.Event()
        self._is_draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: ConfigurationWatcher | None = None
        self._lock_fd = -1

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return socket_path(self.configuration.daemon.runtime_dir)

    @property
    def _supervisor(self) -> str:
        return os.fspath(self.configuration.daemon.runtime_dir)

    def lock(self) -> None:
        """Be the only daemon of the runtime directory. Raises CkptfsError."""
        directory = self.configuration.daemon.runtime_dir
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o755 if os.geteuid() == 0 else 0o700)
            # whoever owns the directory above could put another in its place
            if directory.stat().st_uid != os.geteuid() or directory.parent.stat().st_uid not in (0, os.geteuid()):
                raise InvalidInputError(
                    f"{directory}, or the directory above it, belongs to another user",
                    hint="set runtime-dir in [daemon]",
                )
            self._lock_fd = os.open(directory / "ckptfsd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._lock_fd, 32, 0).decode().strip()
            raise InvalidInputError(
                f"another ckptfsd (pid {pid}) runs with {directory}",
                hint="stop it, or set another runtime-dir in [daemon]",
            ) from error
        except OSError as error:
            raise InvalidInputError(
                f"cannot use {directory}: {error.strerror}", hint="set runtime-dir in [daemon]"
            ) from error
        os.pwrite(self._lock_fd, f"{os.getpid():<19}\n".encode(), 0)

    async def run(self) -> int:
        """Keep the mounts up until SIGTERM; return an exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._spawn(self.save_all()))
        if self.configuration.daemon.watch:
            self._watcher = ConfigurationWatcher(self.path, self._on_changed)
            self._watcher.start()
            self._spawn(self._follow(self._watcher))
        self._find_running()
        self._apply(self.configuration)
        self._spawn(self._be_alive())
        self._spawn(self._observe())
        await self._first_attempts()
        self._tell("READY=1")
        log.info("ready mounts=%d up=%d socket=%s", len(self.mounts), self._count_up(), self.socket)
        await self._stop.wait()
        return await self._end()

    # the configuration

    def reload(self, why: str) -> None:
        """Take the configuration anew. Raises ConfigurationError: It is not valid, and nothing has changed."""
        if self._is_draining:
            return
        service_manager.notify_reloading()
        try:
            if self._watcher is not None:
                self._watcher.seen()
            loaded = load_configuration(self.path)
            # what cannot change while we run
            kept = replace(loaded, daemon=loaded.daemon.model_copy(update=self._fixed()))
            changes = self._changes(kept.mounts)
            self.configuration, self.configuration_error = kept, None
            self.reloads += 1
            self._apply(kept)
            log.info("took the configuration why=%r %s", why, changes)
        except CkptfsError as error:
            self.configuration_error = error
            hint = f" hint={error.hint!r}" if error.hint else ""
            log.error("kept the running configuration why=%r error=%r%s", why, error.fact, hint)
            raise
        finally:
            self._tell("READY=1")

    def _fixed(self) -> dict[str, Any]:
        return {"runtime_dir": self.configuration.daemon.runtime_dir, "listen": self.configuration.daemon.listen}

    def _changes(self, wanted: Mapping[str, Any]) -> str:
        running = self.configuration.mounts
        changed = [name for name in wanted.keys() & running.keys() if wanted[name] != running[name]]
        rows = {"added": wanted.keys() - running.keys(), "removed": running.keys() - wanted.keys(), "changed": changed}
        return " ".join(f"{what}={','.join(sorted(names)) or '-'}" for what, names in rows.items())

    def _apply(self, configuration: Configuration) -> None:
        self.observer.hang_timeout_s = configuration.daemon.hang_timeout
        self.held_down &= configuration.mounts.keys()
        for name in self.mounts.keys() | configuration.mounts.keys():
            wanted = configuration.mounts.get(name) if name not in self.held_down else None
            mount = self.mounts.get(name)
            if mount is None:
                mount = self.mounts[name] = self._make(name)
            mount.want(wanted)

    def _make(self, name: str, **options: Any) -> SupervisedMount:
        on_change = self._on_mount_changed
        return SupervisedMount(
            self._supervisor, name, on_change=on_change, log_format=self.configuration.daemon.log_format, **options
        )

    def _find_running(self) -> None:
        """Take over what an earlier daemon has left, and what the service manager has kept for it."""
        stored = sort_stored(service_manager.take_stored_descriptors())
        running = {each.label.name: each for each in supervised.find(self._supervisor)}
        for name in stored.keys() | running.keys():
            mount = self.mounts[name] = self._make(name, held=stored.get(name))
            try:
                if name in running:
                    mount.adopt(running[name], self.configuration.mounts.get(name))
            except ProcessLookupError:
                continue  # it has just ended

    # what is asked of it

    def mount(self, name: str) -> SupervisedMount:
        """Return a mount of the configuration, or one that is ending. Raises NoSuchMountError."""
        mount = self.mounts.get(name)
        if mount is None or (name not in self.configuration.mounts and mount.state is State.DOWN):
            raise NoSuchMountError(f"there is no mount {name!r} in {self.path}")
        return mount

    async def stop_mount(self, name: str) -> SupervisedMount:
        """Unmount, and keep it so."""
        mount = self.mount(name)
        self.held_down.add(name)
        mount.want(None)
        await mount.settled()
        return mount

    async def start_mount(self, name: str) -> SupervisedMount:
        """Mount what was unmounted on request. Raises CkptfsError: It cannot be now, and will be tried again."""
        mount = self.mount(name)
        settings = self.configuration.mounts.get(name)
        if settings is None:
            raise NoSuchMountError(f"the mount {name!r} is not in {self.path} any more")
        self.held_down.discard(name)
        mount.want(settings)
        await mount.settled()
        if mount.error is not None:
            raise mount.error
        return mount

    async def save(self, name: str, note: str | None = None, *, wait: bool = False) -> dict[str, Any]:
        """Save a mount; return what its `.save` says. Raises CkptfsError."""
        mount = self.mount(name)
        settings = mount.settings
        if mount.state is not State.MOUNTED or settings is None:
            why = mount.error.fact if mount.error is not None else mount.state
            raise MountError(f"{name!r} is not mounted: {why}")
        command = [sys.executable, "-P", "-m", "ckptfs", "save", "--json", *(["--wait"] if wait else [])]
        command += ["--note", note] if note else []
        # in a process of its own: it touches the mount, and waits while that has no room
        process = await asyncio.create_subprocess_exec(
            *[*command, "--", os.fspath(settings.options.mountpoint)],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"CKPTFS_DAEMON_SOCKET": "", "CKPTFS_CONFIG": os.devnull},
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            fact, _, hint = err.decode(errors="replace").strip().removeprefix("ckptfs: error: ").partition("\n  hint: ")
            raise CkptfsError(fact, hint=hint or None)
        saved: dict[str, Any] = json.loads(out)
        log.info("saved mount=%s version=%d state=%s", name, saved["version"], saved["state"])
        return saved

    async def save_all(self, *, wait: bool = False) -> dict[str, dict[str, Any]]:
        """Save every mount that is up and writable; return what each says, or why not."""
        writable = [
            name
            for name, settings in self.configuration.mounts.items()
            if not settings.options.read_only and not settings.options.version and name not in self.held_down
        ]

        async def save(name: str) -> dict[str, Any]:
            try:
                return await self.save(name, wait=wait)
            except CkptfsError as error:
                log.error("could not save mount=%s error=%r", name, error.fact)
                return {"error": error.fact, "hint": error.hint}

        answers = await asyncio.gather(*map(save, writable))
        return dict(zip(writable, answers, strict=True))

    # signals, and what runs beside

    def _on_stop(self) -> None:
        if self._stop.is_set():
            log.warning("asked again to stop: uploads are not waited for any longer")
            for mount in self.mounts.values():
                mount.hurry()
        self._stop.set()

    def _on_hangup(self) -> None:
        # whoever asks by hand wants all of it
        self.held_down.clear()
        self._take("SIGHUP")

    def _on_changed(self) -> None:
        self._take("the files changed")

    def _take(self, why: str) -> None:
        try:
            self.reload(why)
        except CkptfsError:
            return  # it has been logged

    def _on_mount_changed(self) -> None:
        self._tell()

    def _tell(self, *lines: str) -> None:
        service_manager.notify(*lines, f"STATUS={self.summary()}")

    def summary(self) -> str:
        """Return the state of all in one line."""
        counts = [f"{self._count_up()} of {len(self.configuration.mounts)} mounted"]
        counts += [
            f"{mount.name}: {mount.state}" + (f" ({mount.error.fact})" if mount.error is not None else "")
            for mount in self.mounts.values()
            if mount.state not in (State.MOUNTED, State.DOWN)
        ]
        if self.configuration_error is not None:
            counts.append(f"configuration not taken: {self.configuration_error.fact}")
        return " ".join("; ".join(counts).split())

    def _count_up(self) -> int:
        return sum(mount.state is State.MOUNTED for mount in self.mounts.values())

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _be_alive(self) -> None:
        """Tell the service manager that this loop turns."""
        interval_s = service_manager.watchdog_s()
        while interval_s is not None:
            service_manager.notify("WATCHDOG=1")
            await asyncio.sleep(interval_s / 3)

    async def _follow(self, watcher: ConfigurationWatcher) -> None:
        while True:
            await asyncio.sleep(self.configuration.daemon.status_interval)
            await watcher.look_again()

    async def _observe(self) -> None:
        while True:
            for name in [name for name, mount in self.mounts.items() if mount.state is State.DOWN]:
                if name not in self.configuration.mounts:
                    del self.mounts[name]
            await self.observer.ask(self.mounts)
            await asyncio.sleep(self.configuration.daemon.status_interval)

    async def _first_attempts(self) -> None:
        waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(each.settled()) for each in self.mounts.values()]
        waiting.append(asyncio.ensure_future(self._stop.wait()))
        pending = {*waiting}
        deadline_s = time.monotonic() + _FIRST_ATTEMPT_S
        while len(pending) > 1 and not waiting[-1].done() and time.monotonic() < deadline_s:
            left_s = deadline_s - time.monotonic()
            _, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()

    # the end

    async def _end(self) -> int:
        self._is_draining = True
        if self._watcher is not None:
            self._watcher.stop()
        restarts = await asyncio.to_thread(service_manager.is_being_restarted)
        self._tell(*([] if restarts else ["STOPPING=1"]))
        code = 0
        if restarts:
            # one that is being unmounted has been told so, and would take the next daemon's word for impatience
            await self._wait_for([mount for mount in self.mounts.values() if mount.state is State.STOPPING])
            log.info("leaving the mounts to their keepers mounts=%d", self._count_up())
            await asyncio.gather(*(mount.leave() for mount in self.mounts.values()))
        else:
            code = await self._drain()
        for task in self._tasks:
            task.cancel()
        return code

    async def _wait_for(self, mounts: Iterable[SupervisedMount]) -> None:
        """Wait until mounts are as they are wanted, and have the service manager wait too."""
        waiting = {asyncio.ensure_future(mount.settled()) for mount in mounts}
        while waiting:
            self._tell(f"EXTEND_TIMEOUT_USEC={int(_EXTEND_S * 1e6)}")
            _, waiting = await asyncio.wait(waiting, timeout=_EXTEND_S / 3)

    async def _drain(self) -> int:
        """Unmount all; return 1 if versions are left that are not durable."""
        for mount in self.mounts.values():
            mount.want(None)
        await self._wait_for(self.mounts.values())
        left = {
            mount.name: mount.left for mount in self.mounts.values() if mount.left is not None and mount.left.versions
        }
        if not left:
            log.info("stopped mounts=%d left_versions=0", len(self.mounts))
            return 0
        versions, size = sum(each.versions for each in left.values()), sum(each.bytes for each in left.values())
        names = ",".join(sorted(left))
        log.error(
            "stopped with versions that are not durable left_versions=%d left_bytes=%d mounts=%s", versions, size, names
        )
        self._tell(f"STATUS=stopped; {versions} version(s) of {names} wait in the cache directory for the next start")
        return 1
