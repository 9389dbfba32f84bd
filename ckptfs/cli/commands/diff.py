"""`ckptfs diff`: what changed between two versions."""

from typing import TYPE_CHECKING, Any

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.output import print_json, print_table, printable
from ckptfs.cli.parameters import Command, json_option, store_address
from ckptfs.cli.stores import opened_history
from ckptfs.cli.versions import path_text
from ckptfs.units import format_size

if TYPE_CHECKING:
    from ckptfs.versions.difference import Difference

_SIGNS = {"added": "+", "removed": "-", "content": "~", "attributes": "="}


@click.command("diff", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.argument("a")
@click.argument("b")
@access_options
@json_option
def command(store: str, a: str, b: str, as_json: bool, access: StoreAccess) -> None:
    """Show what differs between versions A and B: numbers, tags or `latest`.

    + added, - removed, ~ other content, = the same content with other attributes.
    """
    from ckptfs.versions.difference import differences, new_bytes

    with opened_history(store, access) as history:
        newest = history.newest()
        before, after = history.resolve(a, newest=newest), history.resolve(b, newest=newest)
        tree_before, tree_after = history.tree(before), history.tree(after)
    found = list(differences(tree_before, tree_after))
    bytes_new = new_bytes(tree_before, tree_after)
    if as_json:
        document: dict[str, Any] = {"a": before.version, "b": after.version}
        for key, changes in (("added", ["added"]), ("removed", ["removed"]), ("changed", ["content", "attributes"])):
            document[key] = [_document(each) for each in found if each.change in changes]
        print_json(document | {"bytes_new": bytes_new, "bytes_before": before.bytes, "bytes_after": after.bytes})
        return
    rows = [
        (
            _SIGNS[each.change],
            format_size(each.before.size_bytes) if each.before else "",
            format_size(each.after.size_bytes) if each.after else "",
            format_size(each.bytes_changed),
            printable(each.path or b"."),
        )
        for each in found
    ]
    if rows:
        print_table(
            ("", f"SIZE IN {before.version}", f"SIZE IN {after.version}", "CHANGED", "PATH"), rows, right=(1, 2, 3)
        )
    click.echo(f"paths that differ: {len(rows)}; new data: {format_size(bytes_new)}")


def _document(each: "Difference") -> dict[str, Any]:
    return {
        "path": path_text(each.path) or ".",
        "change": str(each.change),
        "size_before": each.before.size_bytes if each.before else None,
        "size_after": each.after.size_bytes if each.after else None,
        "bytes_changed": each.bytes_changed,
    }
