"""`ckptfs verify`: whether a store holds all that its history says."""

from typing import TYPE_CHECKING, Any

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.failures import FAILED, say_error
from ckptfs.cli.output import print_json, printable
from ckptfs.cli.parameters import Command, json_option, store_address, version
from ckptfs.cli.progress import progress
from ckptfs.cli.stores import opened_history
from ckptfs.cli.versions import path_text
from ckptfs.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfs.transfer.damage import Marks
    from ckptfs.transfer.verify import Finding

_REPAIR = "the next save of a mount that has the bytes stores them again"


@click.command("verify", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.option(
    "--version", "spec", type=version, metavar="V", help="Check this version only (a number, a tag or `latest`)."
)
@click.option("--read-data", is_flag=True, help="Read and hash every byte too, and check the tables of packs.")
@access_options
@json_option
def command(store: str, spec: str | None, read_data: bool, as_json: bool, access: StoreAccess) -> int:
    """Check that every version's objects are there and whole. Exit code 1 if anything is wrong.

    What is not is marked in the store: the next save of a mount that has its bytes stores them again.
    """
    from ckptfs.format.keys import COMMIT_PREFIX
    from ckptfs.transfer.damage import DamageList
    from ckptfs.transfer.verify import verify

    unmarked: list[str] = []

    with opened_history(store, access) as history, progress("reading") as report:
        record = history.resolve(spec) if spec is not None else None
        damage = DamageList(history.store)

        def mark(marks: "Marks") -> None:
            try:
                damage.add(marks)
                if record is None and read_data:
                    damage.clear(but=marks)
            except StoreError as error:
                # it may be ours to read only
                unmarked.append(error.fact)

        findings = verify(
            history, history.store, record=record, read_data=read_data, on_damage=mark, on_progress=report
        )
        newest = next((info.key for info in history.store.list(COMMIT_PREFIX, limit=1)), None)
        if not findings and not as_json:
            count = 1 if record is not None else len(history.numbers())
            what = "every byte hashes right" if read_data else "every object is there"
            click.echo(f"{count} version{'s' if count != 1 else ''} checked: {what}")
    if as_json:
        documents = [_document(each) for each in findings]
        print_json({"ok": not findings, "read_data": read_data, "findings": documents})
    else:
        for each in findings:
            click.echo(_line(each))
    if findings:
        count = len(findings)
        say_error(f"{count} fault{'s' if count != 1 else ''} in {store}", _remedy(findings, newest, unmarked))
        return FAILED
    return 0


def _remedy(findings: "Sequence[Finding]", newest: str | None, unmarked: "Sequence[str]") -> str:
    from ckptfs.format.keys import COMMIT_PREFIX, is_pack_key

    # what has a version is the record of one whose parts are elsewhere, and damaged there
    records = [each.object_key for each in findings if each.object_key.startswith(COMMIT_PREFIX) and not each.version]
    if newest in records:
        return (
            f"nothing can be read without {newest}, the newest record: put it back from a backup or the bucket's own "
            "versions; or move it away, while nobody writes, and give --accept-rollback to go on from the one before"
        )
    if all(is_pack_key(each.object_key) and not each.version for each in findings):
        return "every version can be mounted and restored as before: none needs what is damaged"
    if records:
        return (
            f"versions without a fault can be mounted and restored as before; put {', '.join(records[:3])} back from a "
            "backup or the bucket's own versions: no save stores a record again"
        )
    repair = f"the damage could not be marked there: {unmarked[0]}" if unmarked else _REPAIR
    return f"versions without a fault can be mounted and restored as before; {repair}"


def _document(each: "Finding") -> dict[str, Any]:
    return {
        "version": each.version or None,
        "path": path_text(each.path) or None,
        "chunk": each.chunk or None,
        "object": each.object_key,
        "fact": each.fact,
    }


def _line(each: "Finding") -> str:
    fact = each.fact.removeprefix(f"{each.object_key}: ")
    where = [f"version {each.version}"] if each.version else []
    where += [printable(each.path)] if each.path else []
    where += [f"chunk {each.chunk}"] if each.chunk else []
    return f"{', '.join([*where, each.object_key])}: {fact}"
