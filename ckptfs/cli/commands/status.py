"""`ckptfs status`: what mounts are doing."""

import json
from pathlib import Path
from typing import Any

import click

from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.cli.output import note_text, print_json, printable
from ckptfs.cli.parameters import PATH, Command, json_option
from ckptfs.errors import CkptfsError
from ckptfs.mount_table import mounts
from ckptfs.units import format_size


@click.command("status", cls=Command)
@click.argument("mountpoint", type=PATH, required=False)
@json_option
def command(mountpoint: Path | None, as_json: bool) -> None:
    """Show the state of one mount, or of all on this machine."""
    if mountpoint is not None:
        status = read_control(require_mount(mountpoint).mountpoint, ".status")
        if as_json:
            print_json(status)
        else:
            _print_status(status)
        return
    statuses = [_status_or_error(mount.mountpoint) for mount in mounts()]
    if as_json:
        print_json(statuses)
    elif not statuses:
        click.echo("no ckptfs mount on this machine", err=True)
    for number, status in enumerate(() if as_json else statuses):
        if number:
            click.echo()
        _print_status(status)


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
    if key == "regime" and isinstance(value, dict):
        return f"{value['effort']}: {value['why']}"
    return value if isinstance(value, str) else json.dumps(value)


def _state_text(version: dict[str, Any]) -> str:
    error = f" ({version['error']})" if version["error"] else ""
    return f"{version['state']}{error}"
