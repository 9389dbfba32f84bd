"""`ckptfs save`: a touch of the marker from the shell."""

import errno
import os
from pathlib import Path

import click

from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.cli.output import print_json
from ckptfs.cli.parameters import PATH, Command, json_option
from ckptfs.errors import CkptfsError, NotDurableError, NoteTooLargeError, ReadOnlyError


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
    try:
        _touch(mount.mountpoint / ".save", os.fsencode(note or ""), wait=wait)
    except OSError as error:
        raise _explained(error, mount.mountpoint) from error
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
    except BaseException:
        os.close(fd)
        raise
    # the capture fails here if it fails
    os.close(fd)


def _explained(error: OSError, mountpoint: Path) -> CkptfsError | OSError:
    """Return what a failed touch means."""
    if error.errno == errno.EFBIG:
        return NoteTooLargeError("the note is too large")
    if error.errno == errno.EROFS:
        return ReadOnlyError(
            f"nothing can be saved at {mountpoint}: it is read-only, or another writer took the store over",
            hint=f"`ckptfs status {mountpoint}` says which",
        )
    if error.errno == errno.ENOSPC:
        return CkptfsError(
            f"nothing was saved at {mountpoint}: no room in its cache directory",
            hint="free some space there, then save again",
        )
    if error.errno == errno.EIO:
        return NotDurableError(f"the version at {mountpoint} was not made durable")
    error.filename = error.filename or str(mountpoint)
    return error
