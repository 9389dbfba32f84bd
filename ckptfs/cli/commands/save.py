"""`ckptfs save`: a touch of the marker from the shell."""

import errno
import os
from pathlib import Path

import click

from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.cli.output import print_json
from ckptfs.cli.parameters import PATH, Command, json_option
from ckptfs.errors import CacheError, CkptfsError, NotDurableError, NoteTooLargeError, ReadOnlyError

_NOTE_LIMIT_BYTES = 64 << 10
"""As the marker's own."""


@click.command("save", cls=Command)
@click.argument("mountpoint", type=PATH)
@click.option(
    "-m", "--note", help='What to say of the version: JSON, key=value words ("step=100 loss=0.1"), or a message.'
)
@click.option("--wait", is_flag=True, help="Return when the version is durable in the store.")
@json_option
def command(mountpoint: Path, note: str | None, wait: bool, as_json: bool) -> None:
    """Capture the whole mount as one version, as touching MOUNTPOINT/.save does."""
    mount = require_mount(mountpoint)
    text = os.fsencode(note or "")
    if len(text) > _NOTE_LIMIT_BYTES:
        # said before the marker is touched: refused text does not keep the touch from making a version
        raise NoteTooLargeError(f"the note has {len(text)} bytes")
    try:
        _touch(mount.mountpoint / ".save", text, wait=wait)
    except OSError as error:
        raise _explained(error, mount.mountpoint, wait=wait) from error
    saved = read_control(mount.mountpoint, ".save")
    if as_json:
        print_json(saved)
    else:
        click.echo(f"saved version {saved['version']}" + (", durable" if saved["state"] == "durable" else ""))


def _touch(marker: Path, note: bytes, *, wait: bool) -> None:
    # no O_CREAT: where the marker cannot be looked up there is no mount, and no file is to be left there
    fd = os.open(marker, os.O_WRONLY)
    try:
        if note:
            os.write(fd, note)
        if wait:
            os.fsync(fd)
    finally:
        # without fsync it is here that the version is captured, and that capturing fails
        os.close(fd)


def _explained(error: OSError, mountpoint: Path, *, wait: bool) -> CkptfsError | OSError:
    """Return what a failed touch means."""
    if error.errno == errno.EROFS:
        return ReadOnlyError(
            f"nothing can be saved at {mountpoint}: it is read-only, or another writer took the store over",
            hint=f"`ckptfs status {mountpoint}` says which",
        )
    if error.errno == errno.ENOSPC:
        return CacheError(
            f"nothing was saved at {mountpoint}: its cache directory is full",
            hint="free some space there, then save again",
        )
    if error.errno == errno.EIO and wait:
        status = read_control(mountpoint, ".status")
        why = f": {status['error']}" if status["error"] else ""
        return NotDurableError(f"version {status['version']} is not durable{why}")
    error.filename = error.filename or str(mountpoint)
    return error
