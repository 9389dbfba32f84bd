"""`ckptfs recover`: what was never saved, or was saved and never entered history."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptfs.cli.mounts import read_control
from ckptfs.cli.output import local_time, note_text, print_json, print_table, printable, rfc3339
from ckptfs.cli.parameters import PATH, Command, json_option
from ckptfs.cli.versions import path_text
from ckptfs.mount_table import mount_at
from ckptfs.units import format_size
from ckptfs.watch_table import STATUS, read_object, watch_at

if TYPE_CHECKING:
    from ckptfs.fs.kept import Kept


_HELP = """List what a cache directory holds that is in no version: CACHE is what was given as --cache-dir.

\b
pending   captured, not durable yet: the next mount with this cache directory finishes it
aside     captured, but another writer's versions came first: it can never enter history
unsaved   never captured: what a crash or a restore found in the mount, or the last mount left there

What is listed stays until it is deleted by hand.
"""


@click.command("recover", cls=Command, help=_HELP)
@click.argument("place", type=PATH, metavar="MOUNTPOINT|CACHE")
@click.option("--copy-to", type=PATH, metavar="DIR", help="Copy it all into DIR, a directory for each.")
@json_option
def command(place: Path, copy_to: Path | None, as_json: bool) -> None:
    """List what is kept, and copy it out."""
    from ckptfs.fs.kept import cache_directories, copy_out, list_kept

    # of a dead mount the cache directory cannot be asked for: then the user names it
    status = _status_of(place)
    caches = cache_directories(Path(status["cache"]) if status is not None else place)
    found = [kept for cache in caches for kept in list_kept(cache)]
    if as_json:
        print_json([_document(kept) for kept in found])
    elif found:
        _print(found)
    elif status is not None and status.get("changed_paths"):
        changed = status["changed_paths"]
        paths = "1 path that" if changed == 1 else f"{changed} paths that"
        click.echo(f"nothing was set aside; {paths} changed since the last save can be found in {place}", err=True)
    elif status is not None and status.get("kind") == "watch":
        # which does not see what changes
        click.echo("nothing was set aside, and nothing waits for upload", err=True)
    else:
        click.echo("nothing: all is in the store", err=True)
    if copy_to is None:
        return
    for kept in found:
        if kept.damage is None:
            copy_out(kept, copy_to / _name(kept))
            click.echo(f"copied {len(kept.paths)} files to {copy_to / _name(kept)}", err=True)


def _status_of(place: Path) -> dict[str, Any] | None:
    """Return what the mount or watch at a place says; None if the place is a cache directory."""
    if mount_at(place) is not None:
        return read_control(place, ".status")
    watched = watch_at(place)
    return read_object(watched.directory / STATUS) if watched is not None else None


def _name(kept: "Kept") -> str:
    if kept.is_live_tree:
        return f"{kept.directory.name}-{kept.directory.parent.name}"
    return kept.directory.name if kept.version is None else f"version-{kept.directory.name}"


def _print(found: list["Kept"]) -> None:
    rows = [
        (
            kept.kind,
            str(kept.version or ""),
            local_time(kept.time_ns),
            str(len(kept.paths)),
            format_size(kept.bytes),
            str(kept.directory),
            note_text(kept.note) if kept.damage is None else f"damaged: {printable(kept.damage)}",
        )
        for kept in found
    ]
    print_table(("WHAT", "VERSION", "TIME", "FILES", "SIZE", "DIRECTORY", "NOTE"), rows, right=(1, 3, 4))


def _document(kept: "Kept") -> dict[str, Any]:
    return {
        "kind": kept.kind,
        "version": kept.version,
        "time": rfc3339(kept.time_ns),
        "note": kept.note,
        "files": len(kept.paths),
        "bytes": kept.bytes,
        "files_elsewhere": kept.elsewhere,
        "damage": kept.damage,
        "directory": str(kept.directory),
        "paths": [path_text(path) for path in kept.paths],
    }
