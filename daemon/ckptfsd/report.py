"""What the daemon tells of itself and its mounts: one JSON shape for the API, the page and the metrics."""

import os
import time
from typing import Any

from ckptfs import __version__
from ckptfsd.daemon import Daemon
from ckptfsd.supervised_mount import State, SupervisedMount


def mount_report(daemon: Daemon, mount: SupervisedMount) -> dict[str, Any]:
    """Return one mount: how it is kept, and what it says itself (`status`, null if it is not up or does not answer)."""
    settings = daemon.configuration.mounts.get(mount.name) or mount.settings
    silent_s = daemon.observer.silent_s(mount)
    state = "unmounted" if mount.name in daemon.held_down and mount.state is State.DOWN else str(mount.state)
    return {
        "name": mount.name,
        "mountpoint": os.fspath(settings.options.mountpoint) if settings is not None else None,
        "store": settings.options.store if settings is not None else None,
        "state": "silent" if silent_s else state,
        "state_s": round(time.time() - mount.since_s, 1),
        "error": mount.error.fact if mount.error is not None else None,
        "hint": mount.error.hint if mount.error is not None else None,
        "keeper": mount.keeper_pid,
        "keeper_starts": mount.starts,
        "connection_held": mount.is_held,
        "status": daemon.observer.last(mount),
    }


def daemon_report(daemon: Daemon) -> dict[str, Any]:
    """Return the daemon with all its mounts."""
    error = daemon.configuration_error
    return {
        "version": __version__,
        "pid": os.getpid(),
        "config": os.fspath(daemon.path),
        "config_error": error.fact if error is not None else None,
        "config_hint": error.hint if error is not None else None,
        "reloads": daemon.reloads,
        "up_s": round(time.time() - daemon.started_s, 1),
        "summary": daemon.summary(),
        "mounts": mount_reports(daemon),
    }


def mount_reports(daemon: Daemon) -> list[dict[str, Any]]:
    """Return all mounts, by name."""
    return [mount_report(daemon, mount) for _, mount in sorted(daemon.mounts.items())]


def is_healthy(daemon: Daemon) -> bool:
    """True if every mount is as it is wanted, and the configuration has been taken."""
    wanted = [mount for name, mount in daemon.mounts.items() if name not in daemon.held_down]
    are_up = all(mount.state is State.MOUNTED and not daemon.observer.silent_s(mount) for mount in wanted)
    return are_up and daemon.configuration_error is None
