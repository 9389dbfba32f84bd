"""`ckptfs tag`: names for versions."""

import click

from ckptfs.cli.access import StoreAccess, writing_access_options
from ckptfs.cli.output import print_json, print_table
from ckptfs.cli.parameters import Command, json_option, store_address
from ckptfs.cli.stores import opened_history
from ckptfs.errors import InvalidInputError


@click.command("tag", cls=Command)
@click.argument("store", type=store_address, metavar="STORE|MOUNTPOINT")
@click.argument("words", nargs=-1, metavar="[VERSION NAME]")
@click.option("--delete", is_flag=True, help="Take the name away: tag STORE [VERSION] NAME --delete.")
@click.option(
    "--unsafe-single-writer", is_flag=True, help="Tag in a store that ignores If-None-Match, while nobody writes."
)
@writing_access_options
@json_option
def command(
    store: str, words: tuple[str, ...], delete: bool, unsafe_single_writer: bool, as_json: bool, access: StoreAccess
) -> None:
    """Name a VERSION (a number, another tag or `latest`); without one, list the names.

    A name that is in use moves. A version with a name is never pruned.
    """
    from ckptfs.versions.tags import delete_tag, set_tag

    if delete and len(words) not in (1, 2):
        raise click.UsageError("--delete takes the NAME, or the VERSION and the NAME")
    if not delete and len(words) not in (0, 2):
        raise click.UsageError("give the VERSION and its NAME")
    with opened_history(store, access) as history:
        if delete:
            if len(words) == 2:
                _require_tag_on(history.tags(), words[1], history.resolve(words[0]).version)
            version = delete_tag(history.store, words[-1], unsafe_single_writer=unsafe_single_writer)
            done = f"version {version} is no longer tagged {words[-1]}"
        elif words:
            version = set_tag(history.store, words[1], words[0], unsafe_single_writer=unsafe_single_writer)
            done = f"tagged version {version} {words[1]}"
        else:
            done = ""
        tags = history.tags()
    if as_json:
        print_json(tags)
    elif done:
        click.echo(done)
    elif tags:
        print_table(("TAG", "VERSION"), [(name, str(version)) for name, version in sorted(tags.items())], right=(1,))


def _require_tag_on(tags: dict[str, int], name: str, version: int) -> None:
    if tags.get(name) != version:
        where = f"names version {tags[name]}" if name in tags else "does not exist"
        raise InvalidInputError(
            f"version {version} has no tag {name!r}: it {where}", hint="`ckptfs tag STORE` lists them"
        )
