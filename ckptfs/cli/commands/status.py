"""`ckptfs status`: what mounts are doing."""

from pathlib import Path
from typing import Any

import click

from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.cli.output import print_json, printable
from ckptfs.cli.parameters import PATH, Command, json_option
from ckptfs.errors import CkptfsError
from ckptfs.fs.mount_table import mounts
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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("bytes"):
        return format_size(value)
    if isinstance(value, dict):
        return ", ".join(
            f"{name.replace('_', ' ')} {_text(name, each)}" for name, each in value.items() if each is not None
        )
    if isinstance(value, list):
        return "; ".join(_text(key, each) for each in value)
    return str(value)
