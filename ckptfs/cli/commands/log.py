"""`ckptfs log`: the versions of a store."""

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.output import local_time, note_text, print_json, print_table, printable
from ckptfs.cli.parameters import Command, json_option, store_address
from ckptfs.cli.stores import opened_history
from ckptfs.cli.versions import tags_of, version_document
from ckptfs.units import format_size


@click.command("log", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Show the newest N only.")
@access_options
@json_option
def command(store: str, limit: int | None, as_json: bool, access: StoreAccess) -> None:
    """List versions, newest first: number, time, host, files, size, new bytes as stored, tags, note."""
    with opened_history(store, access) as history:
        records = list(history.versions(limit))
        tags = history.tags()
    if as_json:
        print_json([version_document(record, tags) for record in records])
        return
    rows = [
        (
            str(record.version),
            local_time(record.captured_ns),
            printable(record.host),
            str(record.files),
            format_size(record.bytes),
            format_size(record.bytes_added),
            " ".join(tags_of(record.version, tags)),
            note_text(record.note),
        )
        for record in records
    ]
    if not rows:
        # who has just touched it sees nothing here until the first version is durable
        click.echo("no version is in the store yet; touch .save in a mount to make one", err=True)
        click.echo("  hint: `ckptfs status` shows what waits for upload", err=True)
        return
    print_table(("VERSION", "TIME", "HOST", "FILES", "SIZE", "ADDED", "TAGS", "NOTE"), rows, right=(0, 3, 4, 5))
