"""`ckptfs status`: what mounts are doing."""

import json
import os
from pathlib import Path
from typing import Any

import click

from ckptfs.cli.daemon_socket import find_daemon
from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.cli.output import note_text, print_json, printable
from ckptfs.cli.parameters import PATH, Command, json_option
from ckptfs.cli.watches import status_of, status_or_error
from ckptfs.errors import CkptfsError
from ckptfs.mount_table import mount_at, mounts, real_mountpoint
from ckptfs.units import format_size
from ckptfs.watch_table import watch_at, watches


@click.command("status", cls=Command)
@click.argument("mountpoint", type=PATH, required=False)
@click.option(
    "--check",
    is_flag=True,
    help="Exit code 1 if a mount does not answer, or there is neither a mount nor a daemon that answers; "
    "of MOUNTPOINT, unless it is up: for health checks.",
)
@json_option
def command(mountpoint: Path | None, check: bool, as_json: bool) -> int:
    """Show the state of one mount or watched directory, or of all on this machine."""
    daemon = find_daemon()
    told = daemon.mounts() if daemon is not None else None
    kept = {each["mountpoint"]: each for each in told or ()}
    if mountpoint is not None:
        status = _status_of(mountpoint, kept)
        if as_json:
            print_json(status)
        else:
            _print_status(status)
        return _unhealthy([status]) if check else 0
    found = [str(mount.mountpoint) for mount in mounts()]
    statuses = [_with_keeping(_status_or_error(Path(place)), kept.get(place)) for place in found]
    statuses += [status_or_error(watched) for watched in watches()]
    # whoever keeps these goes on trying, and would not get further by being started again
    are_ill = bool(_unhealthy(statuses)) if statuses else told is None
    statuses += [_with_keeping({}, each) for place, each in sorted(kept.items()) if place not in found]
    if as_json:
        print_json(statuses)
    elif not statuses:
        click.echo("no ckptfs mount on this machine", err=True)
    for number, status in enumerate(() if as_json else statuses):
        if number:
            click.echo()
        _print_status(status)
    return int(check and are_ill)


def _unhealthy(statuses: list[dict[str, Any]]) -> int:
    """Return an exit code. Uploads that fail are no reason to start anything again: they are tried again for ever."""
    return 0 if statuses and all("pid" in status for status in statuses) else 1


def _status_of(path: Path, kept: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the status of what a path is in, or of the mount that a daemon would have there."""
    here = kept.get(os.fspath(real_mountpoint(path)))
    if here is not None and mount_at(path) is None:
        return _with_keeping({}, here)
    watched = watch_at(path)
    if watched is not None:
        return status_of(watched)
    place = require_mount(path).mountpoint
    return _with_keeping(read_control(place, ".status"), kept.get(str(place)))


def _with_keeping(status: dict[str, Any], kept: dict[str, Any] | None) -> dict[str, Any]:
    """Return a status with what the daemon says of the mount, None if it is not a daemon's."""
    if kept is None:
        return status
    of_daemon = {key: kept[key] for key in ("name", "state", "keeper_starts", "connection_held")}
    if not status:
        status = {key: kept[key] for key in ("mountpoint", "store", "error", "hint")}
    return {**status, "daemon": of_daemon}


def _status_or_error(mountpoint: Path) -> dict[str, Any]:
    try:
        return read_control(mountpoint, ".status")
    except CkptfsError as error:
        return {"mountpoint": str(mountpoint), "error": error.fact, "hint": error.hint}


def _print_status(status: dict[str, Any]) -> None:
    width = max(map(len, status), default=0)
    for key, value in status.items():
        if value is not None and value != []:
            click.echo(f"{key.replace('_', ' '):<{width}}  {printable(_text(key, value))}")


def _text(key: str, value: Any) -> str:
    """Return a field's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("bytes"):
        return format_size(value)
    if key == "pending" and isinstance(value, list):
        first, last = value[0]["version"], value[-1]["version"]
        which = f"version {first}" if len(value) == 1 else f"versions {first} to {last}"
        return f"{which}; the first is {_state_text(value[0])}"
    if key == "newest" and isinstance(value, dict):
        words = [_state_text(value), f"{value['files']} files", format_size(value["bytes"]), note_text(value["note"])]
        return ", ".join(word for word in words if word)
    if key == "daemon" and isinstance(value, dict):
        return f"{value['name']}: {value['state']}"
    if key == "lease" and isinstance(value, dict):
        return str(value["state"]) + (f", renewed {value['renewed_s_ago']} s ago" if value["renewed_s_ago"] else "")
    if key == "counters" and isinstance(value, dict):
        errors = sum(value["errors"].values())
        return f"saves={value['saves']} uploaded={format_size(value['uploaded_bytes'])} errors={errors}"
    if key == "regime" and isinstance(value, dict):
        return f"{value['effort']}: {value['why']}"
    return value if isinstance(value, str) else json.dumps(value)


def _state_text(version: dict[str, Any]) -> str:
    error = f" ({version['error']})" if version["error"] else ""
    return f"{version['state']}{error}"
