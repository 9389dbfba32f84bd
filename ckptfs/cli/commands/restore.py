"""`ckptfs restore`: writes a version into an ordinary directory."""

import os
import time
from pathlib import Path

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.commands.show import relative_path
from ckptfs.cli.output import printable
from ckptfs.cli.parameters import PATH, Command, store_address, version
from ckptfs.cli.progress import progress
from ckptfs.cli.stores import opened_history
from ckptfs.errors import InvalidInputError
from ckptfs.units import format_size


@click.command("restore", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.argument("target", type=PATH)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--version",
    "spec",
    type=version,
    default="latest",
    metavar="V",
    help="A number or a tag.  [default: latest]",
)
@access_options
def command(store: str, target: Path, paths: tuple[str, ...], spec: str, access: StoreAccess) -> None:
    """Write a version into the directory TARGET, without FUSE; with PATHs, only those and what is below them.

    Every byte is checked. Files there of the same name are replaced, others are left alone. After an interruption the
    same command goes on where it was.
    """
    from ckptfs.memory import keep_freed_memory
    from ckptfs.transfer.restore import IncompleteRestoreError, restore

    if os.path.lexists(target) and not target.is_dir():
        raise InvalidInputError(f"{target} is not a directory", hint="a version is written into a directory")
    started = time.monotonic()
    keep_freed_memory()
    with opened_history(store, access) as history, progress("restoring") as report:
        record = history.resolve(spec)
        wanted = [relative_path(path) for path in paths]
        try:
            entries = restore(history, history.store, record, target, wanted, report)
        except IncompleteRestoreError as error:
            for path, reason in error.failures:
                click.echo(f"not restored: {printable(path)}: {reason.fact}", err=True)
            raise
    sizes = [entry.size_bytes for entry in entries.values() if entry.kind.name == "FILE"]
    click.echo(
        f"restored version {record.version} to {printable(bytes(target))}: {len(sizes)} file{'s' * (len(sizes) != 1)}, "
        f"{format_size(sum(sizes))}, {time.monotonic() - started:.1f} s"
    )
