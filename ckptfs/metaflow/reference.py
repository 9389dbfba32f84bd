"""References: what names a version in any store, as a dict that an artifact can keep, or as one string."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from ckptfs.client import Version
from ckptfs.errors import InvalidInputError

DEFAULT_NAME = "mfchckpt"
"""As metaflow-checkpoint has it."""

DIRECTORY, SAVED = "checkpoint", "saved"
"""What a task's mount holds: the directory that the step writes, and what `save(path=...)` was given from elsewhere."""

Reference = dict[str, Any]

_OF_A_SAVE = {"name", "metadata", "latest", "directory", "pathspec", "attempt", "created_on"}

# what a loss may be and JSON has not: a note has it as text
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Loaded(dict[str, Any]):
    """The reference of what a task began with. As metaflow-checkpoint has it, its values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> Reference:
        """Return it as `save` and `list` return references."""
        return dict(self)


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
        "metadata": {name: _number(value) for name, value in note["metadata"].items()},
        "latest": note["latest"],
        "directory": note["directory"],
        "pathspec": note["pathspec"],
        "attempt": note["attempt"],
        "created_on": note["created_on"],
        "size": size_bytes,
        "storage_format": "files",
    }


def of_version(store: str, version: Mapping[str, Any]) -> Reference:
    """Return the reference of a version, whoever saved it.

    One that a program made by a touch, as all do that are not Python or use a callback, is of the task's directory.
    Which attempt that was is not known.

    Args:
        store: The task's.
        version: As `ckptfs log --json` or `.save` gives it.
    """
    note = version["note"]
    if not isinstance(note, dict) or not note.keys() >= _OF_A_SAVE:
        note = {
            "name": DEFAULT_NAME,
            "metadata": note if isinstance(note, dict) else {"message": note} if note else {},
            "latest": True,
            "directory": DIRECTORY,
            "pathspec": _pathspec(store),
            "attempt": None,
            "created_on": version["time"][:19] if version.get("time") else now(),
        }
    return reference(store, version["version"], note, version["bytes"])


def chosen(
    references: Iterable[Reference], name: str | None = None, attempt: int | str | None = None
) -> list[Reference]:
    """Return the references of a name, and of an attempt, if one is given."""
    return [
        each
        for each in references
        if (name is None or each["name"] == name) and (attempt is None or each["attempt"] == int(attempt))
    ]


def now() -> str:
    """Return the time as references have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


def _number(value: Any) -> Any:
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def _pathspec(store: str) -> str:
    flow, _, *rest = (unquote(part) for part in store.split("/")[-5:])
    return "/".join([flow, *rest])


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
