"""`ckptfs prune`: drops versions and deletes what only they needed."""

import os
import socket
from typing import TYPE_CHECKING

import click

from ckptfs.cli.access import StoreAccess, writing_access_options
from ckptfs.cli.output import print_json
from ckptfs.cli.parameters import Command, json_option, store_address
from ckptfs.cli.progress import progress
from ckptfs.cli.stores import opened_history
from ckptfs.units import format_size

if TYPE_CHECKING:
    from ckptfs.versions.prune import Pruned


@click.command("prune", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the newest N versions.")
@click.option(
    "--keep-daily",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the newest version of each of the last N days (UTC) that have one.",
)
@click.option("--keep-every", type=click.IntRange(min=1), metavar="N", help="Keep versions whose number N divides.")
@click.option("--dry-run", is_flag=True, help="Say what would be dropped; change nothing.")
@click.option(
    "--unsafe-single-writer", is_flag=True, help="Prune a store that ignores If-None-Match, while nobody writes."
)
@writing_access_options
@json_option
def command(
    store: str,
    keep_last: int | None,
    keep_daily: int | None,
    keep_every: int | None,
    dry_run: bool,
    unsafe_single_writer: bool,
    as_json: bool,
    access: StoreAccess,
) -> None:
    """Drop the versions that no --keep option keeps, and delete the data that only they needed.

    The newest version and versions with a tag are always kept. Also deletes what an interrupted prune and crashed
    uploads have left. A mount may go on writing meanwhile.
    """
    from ckptfs.versions.create import ensure_safe
    from ckptfs.versions.prune import Pruner
    from ckptfs.versions.retention import Retention
    from ckptfs.versions.retry import Retry

    retention = Retention(keep_last=keep_last, keep_daily=keep_daily, keep_every=keep_every)
    if retention.keeps_all:
        raise click.UsageError("say what to keep: --keep-last, --keep-daily or --keep-every")
    with opened_history(store, access) as history, progress("looking at versions", in_bytes=False) as report:
        pruner = Pruner(history, Retry(), host=socket.gethostname(), pid=os.getpid(), on_progress=report)
        if dry_run:
            done = pruner.preview(retention)
        else:
            ensure_safe(history.store, Retry(), unsafe_single_writer=unsafe_single_writer)
            done = pruner.prune(retention)
    if as_json:
        print_json(_document(done) | {"dry_run": dry_run})
    else:
        click.echo(_line(done, dry_run=dry_run))


def _document(done: "Pruned") -> dict[str, object]:
    return {
        "dropped": done.dropped,
        "kept": done.kept,
        "objects": done.objects,
        "orphans": done.orphans,
        "bytes": done.size_bytes,
        "damaged": done.damaged,
    }


def _line(done: "Pruned", *, dry_run: bool) -> str:
    count = len(done.dropped)
    orphans = f", {done.orphans} of them of uploads that never ended" if done.orphans else ""
    damaged = f"; damaged: {', '.join(map(str, done.damaged))}" if done.damaged else ""
    return (
        f"{'would drop' if dry_run else 'dropped'} {count} version{'s' if count != 1 else ''} and "
        f"{done.objects} object{'s' if done.objects != 1 else ''} (about {format_size(done.size_bytes)}{orphans}); "
        f"{done.kept} kept{damaged}"
    )
