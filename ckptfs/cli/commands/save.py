"""`ckptfs save`: a touch of the marker from the shell."""

import errno
import os
from pathlib import Path
from typing import Any

import click

from ckptfs.cli.daemon_socket import find_daemon
from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.cli.output import print_json
from ckptfs.cli.parameters import PATH, Command, json_option, setting
from ckptfs.cli.watches import status_of
from ckptfs.client.marker import encode_note, explained, touch
from ckptfs.client.rank import current_rank
from ckptfs.errors import CacheError, CkptfsError, FencedError, NotDurableError
from ckptfs.mount_table import mount_at
from ckptfs.watch_table import watch_at


@click.command("save", cls=Command)
@click.argument("mountpoint", type=PATH)
@click.option(
    "-m", "--note", help='What to say of the version: JSON, key=value words ("step=100 loss=0.1"), or a message.'
)
@click.option("--wait", is_flag=True, help="Return when the version is durable in the store.")
@setting(
    "--ranks",
    type=click.Choice(["all", "zero"]),
    help="Which ranks of a distributed job ($RANK) save.  [default: all]",
)
@json_option
def command(mountpoint: Path, note: str | None, wait: bool, ranks: str | None, as_json: bool) -> None:
    """Capture the whole mount as one version, as touching MOUNTPOINT/.save does."""
    # said before the marker is touched: refused text does not keep the touch from making a version
    text = encode_note(note)
    rank = current_rank().rank
    if ranks == "zero" and rank:
        click.echo(f"skipped: rank {rank} is not 0, and only that one saves (--ranks=zero)", err=True)
        if as_json:
            print_json({"version": 0, "state": "skipped"})
        return
    daemon, found = find_daemon(), mount_at(mountpoint)
    kept = daemon.mount_at(found.mountpoint if found is not None else mountpoint) if daemon is not None else None
    if daemon is not None and kept is not None:
        _tell(daemon.save(kept["name"], note, wait=wait), as_json=as_json)
        return
    watched = watch_at(mountpoint)
    if watched is not None:
        status_of(watched)  # so that no touch is left to nobody
        _tell(_save_watched(watched.directory, text, wait=wait), as_json=as_json)
        return
    mount = require_mount(mountpoint)
    before = read_control(mount.mountpoint, ".save")["version"]
    try:
        saved = touch(mount.mountpoint, text, sync=wait)
    except OSError as error:
        raise _explained(error, mount.mountpoint, before) from error
    _tell(saved, as_json=as_json)


def _save_watched(directory: Path, text: bytes, *, wait: bool) -> dict[str, Any]:
    from ckptfs.client.watched import touch

    try:
        return touch(directory, text, sync=wait)
    except OSError as error:
        known = explained(error, directory)
        if known is not None:
            raise known from error
        raise NotDurableError(f"{directory}: {error.strerror}") from error


def _tell(saved: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(saved)
    else:
        click.echo(f"saved version {saved['version']}" + (", durable" if saved["state"] == "durable" else ""))
        if saved.get("torn"):
            click.echo(f"files that were written to meanwhile, and may mix moments: {saved['torn']}", err=True)


def _explained(error: OSError, mountpoint: Path, before: int) -> CkptfsError | OSError:
    """Return what a failed touch means.

    Args:
        before: The newest version before it.
    """
    known = explained(error, mountpoint)
    if known is not None:
        return known
    if error.errno == errno.EIO:
        status = read_control(mountpoint, ".status")
        if status["fenced"]:
            return FencedError(f"version {status['version']} can never become durable: {status['fenced']}")
        failed = [each["error"] for each in status["pending"] if each["state"] == "failed"]
        if status["version"] <= before or failed:
            return CacheError(
                f"nothing was saved at {mountpoint}: {failed[0] if failed else error.strerror}",
                hint=f"{status['cache']}/mount.log says more",
            )
        why = f": {status['error']}" if status["error"] else ""
        return NotDurableError(f"version {status['version']} is not durable{why}")
    error.filename = error.filename or os.fspath(mountpoint)
    return error
