"""`ckptfs show`: the files of one version."""

import os

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.output import local_time, note_text, print_json, print_table, printable
from ckptfs.cli.parameters import Command, json_option, store_address
from ckptfs.cli.stores import opened_history
from ckptfs.cli.versions import entry_document, mode_text, tags_of, version_document
from ckptfs.errors import InvalidInputError
from ckptfs.units import format_size


@click.command("show", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.argument("version")
@click.argument("path", required=False)
@access_options
@json_option
def command(store: str, version: str, path: str | None, as_json: bool, access: StoreAccess) -> None:
    """Show the files of a VERSION: a number, a tag or `latest`.

    With PATH, only that file, or what is below that directory.
    """
    with opened_history(store, access) as history:
        newest = history.newest()
        record = history.resolve(version, newest=newest)
        tree = history.tree(record)
        tags = history.tags(newest=newest)
    wanted = relative_path(path or "")
    entries = [entry for name, entry in tree.items() if not wanted or name == wanted or name.startswith(wanted + b"/")]
    if wanted and not entries:
        raise InvalidInputError(
            f"version {record.version} has no {path}", hint=f"`ckptfs show {store} {version}` lists what it has"
        )
    if as_json:
        print_json(version_document(record, tags) | {"entries": [entry_document(entry) for entry in entries]})
        return
    names = " ".join(tags_of(record.version, tags))
    click.echo(
        f"version {record.version}{f' ({names})' if names else ''}, {local_time(record.captured_ns)} on "
        f"{printable(record.host)}: {record.files} files, {format_size(record.bytes)}"
    )
    if record.note is not None:
        click.echo(f"note: {note_text(record.note)}")
    rows = [
        (
            mode_text(entry),
            f"{entry.uid}:{entry.gid}",
            format_size(entry.size_bytes),
            local_time(entry.mtime_ns),
            printable(entry.path or b".")
            + (f" -> {printable(entry.target)}" if entry.target else "")
            + (" (torn)" if entry.torn else ""),
        )
        for entry in entries
    ]
    print_table(("MODE", "OWNER", "SIZE", "MODIFIED", "PATH"), rows, right=(2,))


def relative_path(path: str) -> bytes:
    """Return a path as a version's tree has it: no slash at either end, no `.`."""
    return b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))
