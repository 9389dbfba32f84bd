"""`ckptfs umount`: unmounts, and waits until what was captured is durable."""

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ckptfs.cli.daemon_socket import DaemonSocket, find_daemon
from ckptfs.cli.mounts import ClosedMountError, DeadMountError, read_control, require_mount
from ckptfs.cli.output import printable
from ckptfs.cli.parameters import PATH, Command
from ckptfs.cli.progress import progress
from ckptfs.cli.watches import DeadWatchError, clear_away, end_watch, status_of
from ckptfs.errors import InvalidInputError, MountError, NotDurableError
from ckptfs.mount_table import real_mountpoint
from ckptfs.units import format_size
from ckptfs.watch_table import Watched, watch_at

_POLL_MS = 200
# a process that has nothing to upload ends within a second; one that is ending already is not hurt by being told again
_ENDING_S = 2.0


@click.command("umount", cls=Command)
@click.argument("mountpoint", type=PATH)
def command(mountpoint: Path) -> None:
    """Unmount, and wait until captured versions are durable, at most the mount's --drain-timeout.

    A mount whose process is gone is cleared away. Exit code 1 if versions are left; they stay in the cache directory.
    One that ckptfsd keeps up stays unmounted until the daemon is told otherwise (SIGHUP, or a restart).
    A watched directory (`ckptfs watch`) is not watched any more, and keeps its files.
    """
    from ckptfs.fs.mountpoint import detach, unmount

    daemon = find_daemon()
    kept = daemon.mount_at(mountpoint) if daemon is not None else None
    if daemon is not None and kept is not None:
        _stop(daemon, kept)
        return
    watched = watch_at(mountpoint)
    if watched is not None:
        _end_watch(watched)
        return
    place = require_mount(mountpoint).mountpoint
    if place not in (Path(os.path.abspath(mountpoint)), real_mountpoint(mountpoint)):
        raise InvalidInputError(f"{mountpoint} is inside the mount at {place}", hint=f"`ckptfs umount {place}`")
    try:
        status = read_control(place, ".status")
    except DeadMountError:
        detach(place)
        click.echo(f"cleared away the dead mount at {printable(bytes(place))}")
        return
    except ClosedMountError:
        if os.geteuid() != 0:
            raise
        unmount(place)
        click.echo(
            f"unmounted {printable(bytes(place))}, of another user: what waits for upload goes on in the background"
        )
        return
    # a read-only mount shares its cache directory, and what is pending there is another's
    cache = None if status["read_only"] else Path(status["cache"])
    # opened before the process can end, so that its number cannot become another's
    process_fd, keeper_fd = _open_process(int(status["pid"])), _open_process(int(status["keeper"]))
    if status["lent"]:
        _end_server(int(status["keeper"]), place)
    else:
        unmount(place)
    if process_fd is not None:
        wait_for_end(process_fd, keeper_fd, lambda: _count_pending(cache))
    _tell_left(place, cache)


def _end_watch(watched: Watched) -> None:
    try:
        status = status_of(watched)
    except DeadWatchError:
        clear_away(watched.directory)
        click.echo(f"cleared away what a dead watch left in {printable(bytes(watched.directory))}")
        return
    cache = Path(status["cache"])
    wait_for_end(end_watch(watched), None, lambda: _count_pending(cache))
    _tell_left(watched.directory, cache, done="ended the watch of")


def _stop(daemon: DaemonSocket, kept: dict[str, Any]) -> None:
    """Have the daemon that keeps it up unmount it, and keep it so."""
    with progress("making versions durable", in_bytes=False):
        left = daemon.stop(kept["name"])
    _tell(left["mountpoint"], left["left_versions"], left["left_bytes"], left["cache"])


def _tell_left(place: Path, cache: Path | None, *, done: str = "unmounted") -> None:
    """Say what the mount or watch has left, as _tell does."""
    from ckptfs.cache.directory import CacheDirectory
    from ckptfs.fs.kept import list_left

    if cache is None:
        _tell(place, 0, 0, cache, done=done)
        return
    left = list_left(CacheDirectory(cache))
    lost = next(iter(CacheDirectory(cache).read_lost().values()), None)
    _tell(place, len(left), sum(kept.bytes for kept in left), cache, done=done, lost=lost)


def _tell(
    place: Path | str,
    versions: int,
    size_bytes: int,
    cache: Path | str | None,
    *,
    done: str = "unmounted",
    lost: str | None = None,
) -> None:
    """Say that it is unmounted. Raises NotDurableError: Versions are left, and why if they can never enter history."""
    if versions:
        what, are = ("1 version", "is") if versions == 1 else (f"{versions} versions", "are")
        fact = f"{done} {place}, but {what} ({format_size(size_bytes)}) {are} not durable"
        if lost:
            raise NotDurableError(f"{fact}: {lost}", hint=f"they stay in {cache}; `ckptfs recover {cache}` lists them")
        raise NotDurableError(
            fact, hint=f"they stay in {cache}; the next mount with this cache directory finishes them"
        )
    click.echo(f"{done} {printable(os.fsencode(place))}")


def _open_process(pid: int) -> int | None:
    """Return a descriptor of a mount's process, None if it is not of this pid namespace."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if b"ckptfs" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return fd
    except OSError:
        pass  # it ended just now
    os.close(fd)
    return None


def _end_server(keeper: int, place: Path) -> None:
    """End the server of a mount that somebody else made, and has us end by that."""
    try:
        fd = os.pidfd_open(keeper)
        words = Path(f"/proc/{keeper}/cmdline").read_bytes()
        # the number may be another process's here, if the server is in another container
        is_it = b"ckptfs" in words and os.fsencode(place.name) in words
    except OSError:
        is_it = False
    if not is_it:
        raise MountError(f"the server of {place} is not in this container", hint="unmount it, or end it, where it runs")
    signal.pidfd_send_signal(fd, signal.SIGTERM)
    os.close(fd)


def wait_for_end(process_fd: int, keeper_fd: int | None, count_left: Callable[[], int]) -> None:
    """Return when the process and its keeper have ended, showing how many versions are still to be uploaded.

    A mount namespace that was made meanwhile, as containers have, keeps the mount, and so its process would go on.
    """
    end = select.poll()
    end.register(process_fd, select.POLLIN)
    total = count_left()
    idle_since_s = time.monotonic()
    is_told = False
    with progress("making versions durable", in_bytes=False) as report:
        while not end.poll(_POLL_MS):
            left = count_left()
            # --save-on-exit adds one
            total = max(total, left)
            if total:
                report(total - left, total)
            if left:
                idle_since_s = time.monotonic()
            elif keeper_fd is not None and not is_told and time.monotonic() - idle_since_s > _ENDING_S:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(keeper_fd, signal.SIGTERM)
                is_told = True
    if keeper_fd is not None:
        # it ends a moment later; until then whoever unmounts the cache directory's filesystem finds it busy
        end.unregister(process_fd)
        end.register(keeper_fd, select.POLLIN)
        end.poll(1000 * _ENDING_S)


def _count_pending(cache: Path | None) -> int:
    """Count what may still become durable, by names: manifests are not for reading five times a second."""
    from ckptfs.cache.directory import CacheDirectory
    from ckptfs.cache.pending import pending_numbers

    if cache is None or CacheDirectory(cache).read_lost():
        return 0
    try:
        return len(pending_numbers(CacheDirectory(cache).pending))
    except FileNotFoundError:
        return 0
