"""Choosing a part of a version's tree by paths. Pure."""

import os
from collections.abc import Iterator, Sequence

from ckptfs.errors import InvalidInputError
from ckptfs.format.manifest import Entry, Tree


def select(tree: Tree, paths: Sequence[bytes], version: int) -> tuple[Tree, Tree]:
    """Return the entries at and below some paths, and the directories on the way to them.

    Args:
        tree: Of the version.
        paths: Relative to the root; slashes around them do not matter. None given, or the root: everything.
        version: For the error.

    Raises:
        InvalidInputError: The tree has no such path.
    """
    wanted = {path.strip(b"/") for path in paths}
    if not wanted or b"" in wanted:
        return tree, {}
    for path in sorted(wanted):
        if path not in tree:
            raise InvalidInputError(
                f"version {version} has no {os.fsdecode(path)!r}",
                hint=f"`ckptfs show STORE {version}` lists what it has",
            )
    chosen = {
        path: entry for path, entry in tree.items() if path in wanted or any(above in wanted for above in _above(path))
    }
    on_the_way = {above for path in wanted for above in _above(path)} - chosen.keys()
    return chosen, {path: tree[path] for path in sorted(on_the_way)}


def first_names(tree: Tree) -> dict[int, bytes]:
    """Return the first path of each group of hard links, by link id."""
    first: dict[int, bytes] = {}
    for entry in tree.values():
        if entry.link_id:
            first.setdefault(entry.link_id, entry.path)
    return first


def all_names(tree: Tree) -> dict[int, list[bytes]]:
    """Return the paths of each group of hard links, by link id."""
    names: dict[int, list[bytes]] = {}
    for entry in tree.values():
        if entry.link_id:
            names.setdefault(entry.link_id, []).append(entry.path)
    return names


def is_further_link(entry: Entry, first: dict[int, bytes]) -> bool:
    """True for a name of a group of hard links that is not its first."""
    return first.get(entry.link_id, entry.path) != entry.path


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the directories that a path lies in, the root last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path
