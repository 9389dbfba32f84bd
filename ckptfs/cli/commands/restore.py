"""`ckptfs restore`: writes a version into an ordinary directory."""

import time
from pathlib import Path

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.commands.show import relative_path
from ckptfs.cli.output import printable
from ckptfs.cli.parameters import PATH, Command, version
from ckptfs.cli.progress import progress
from ckptfs.cli.stores import opened_history
from ckptfs.errors import InvalidInputError
from ckptfs.units import format_size


@click.command("restore", cls=Command)
@click.argument("store", metavar="STORE|MOUNTPOINT")
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

    Every byte is checked. Files there of the same name are replaced, others are left alone.
    """
    from ckptfs.memory import keep_freed_memory
    from ckptfs.transfer.restore import IncompleteRestoreError, restore

    if target.exists() and not target.is_dir():
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
    size_bytes = sum(entry.size_bytes for entry in entries.values() if entry.kind.name == "FILE")
    files = sum(entry.kind.name == "FILE" for entry in entries.values())
    click.echo(
        f"restored version {record.version} to {printable(bytes(target))}: {files} files, {format_size(size_bytes)}, "
        f"{time.monotonic() - started:.1f} s"
    )
