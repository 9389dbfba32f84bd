"""References: what names a version in any store, as a dict that an artifact can keep, or as one string."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ckptfs.client import Version
from ckptfs.errors import InvalidInputError

DEFAULT_NAME = "mfchckpt"
"""As metaflow-checkpoint has it."""

Reference = dict[str, Any]


class Wanted(NamedTuple):
    """A version, and which of its directories."""

    store: str
    number: int
    directory: str
    """Empty if the reference does not say."""


def reference(store: str, number: int, note: Mapping[str, Any], size_bytes: int | None = None) -> Reference:
    """Return the reference of a version, with the keys that metaflow-checkpoint's have."""
    return {
        "type": "checkpoint",
        "key": f"{store}@{number}",
        "url": store,
        "version_id": number,
        "name": note["name"],
        "metadata": note["metadata"],
        "latest": note["latest"],
        "directory": note["directory"],
        "pathspec": note["pathspec"],
        "attempt": note["attempt"],
        "created_on": note["created_on"],
        "size": size_bytes,
    }


def parse(given: Mapping[str, Any] | str | Version | int, own_store: str) -> Wanted:
    """Return what a reference names.

    Args:
        given: A reference, its key, or the number of a version of the store given.
        own_store: Whose numbers they are.

    Raises:
        InvalidInputError: It is none.
    """
    if isinstance(given, (Version, int)):
        return Wanted(own_store, int(given), "")
    directory = str(given.get("directory", "")) if isinstance(given, Mapping) else ""
    key = given.get("key") if isinstance(given, Mapping) else given
    store, at, number = str(key).rpartition("@")
    if not at or not number.isdigit() or number == "0":
        raise InvalidInputError(f"{given!r:.200} is no reference of a checkpoint: expected what save or list returned")
    return Wanted(store, int(number), directory)
