"""The configuration's files: read, put together key by key, and where in them something stands."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ckptfs.cli.settings import nearest
from ckptfs.errors import InvalidInputError

Where = tuple[str | int, ...]
"""Keys that lead to a value of a TOML document."""

# what accepts a rollback does so once: `ckptfs log STORE --accept-rollback`, with the mount's --cache-dir
NOT_OF_MOUNTS = {"foreground", "accept_rollback", "fuse_fd", "fuse_socket"}
"""Options of `ckptfs mount` that are no settings of a daemon's mount; [mount] may have them."""
_SHARED = ("daemon", "defaults", "mount")
"""Tables that are put together from all files."""


class ConfigurationError(InvalidInputError):
    """The configuration is not valid; the fact names file and line."""


def configuration_files(path: Path) -> list[Path]:
    """Return the file and those of `conf.d` beside it, in the order in which they are read."""
    # as in a shell, `*` is no name that begins with a dot: editors and tools put such there while they write
    return [path, *sorted(each for each in path.parent.glob("conf.d/*.toml") if not each.name.startswith("."))]


@dataclass(frozen=True, slots=True)
class Source:
    """One file."""

    path: Path
    text: str
    tables: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Read one. Raises ConfigurationError: It cannot be read, or is not TOML."""
        try:
            text = path.read_text(encoding="utf-8")
            return cls(path, text, _normal(tomllib.loads(text)))
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path} is not UTF-8: {error}") from error
        except tomllib.TOMLDecodeError as error:
            # "... (at line 3, column 7)" becomes FILE:3
            said, _, place = str(error).partition(" (at ")
            line = re.match(r"line (\d+)", place)
            last = len(text.splitlines()) or 1
            raise ConfigurationError(f"{path}:{line[1] if line else last}: it is not TOML: {said}") from error

    def line_of(self, where: Where) -> int | None:
        """Return the line on which a value is complete, or what should hold it if it is missing; None: neither is here.

        The shortest beginning of the file that has it ends there, which only TOML's own parser can tell.
        """
        found = where
        while found and not _has(self.tables, found):
            found = found[:-1]
        if not found:
            return None
        lines = self.text.splitlines(keepends=True)
        for number in range(1, len(lines) + 1):
            try:
                if _has(_normal(tomllib.loads("".join(lines[:number]))), found):
                    return number
            except tomllib.TOMLDecodeError:
                continue  # in the middle of a value
        return None


def _normal(tables: dict[str, Any]) -> dict[str, Any]:
    """Return a document with `-` in all keys of settings, where `_` will do as well."""

    def keys(table: Any) -> Any:
        return {key.replace("_", "-"): value for key, value in table.items()} if isinstance(table, dict) else table

    normal = {name: keys(table) if name in _SHARED else table for name, table in tables.items()}
    if isinstance(tables.get("mounts"), dict):
        normal["mounts"] = {name: keys(table) for name, table in tables["mounts"].items()}
    return normal


def _has(value: Any, where: Where) -> bool:
    for key in where:
        is_index = isinstance(value, list) and isinstance(key, int) and key < len(value)
        if not is_index and not (isinstance(value, dict) and key in value):
            return False
        value = value[key]
    return True


def put_together(sources: list[Source]) -> dict[str, Any]:
    """Return one document, with what holds for all mounts written into each."""
    shared: dict[str, dict[str, Any]] = {name: {} for name in _SHARED}
    mounts: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for source in sources:
        for name, table in source.tables.items():
            if not isinstance(table, dict):
                raise error_at(
                    [source],
                    (name,),
                    f"{name!r} is a value, and should be in a table",
                    "begin with [daemon] or [mounts.NAME]",
                )
            if name in _SHARED:
                shared[name] |= table
            elif name == "mounts":
                for twice in table.keys() & mounts.keys():
                    raise error_at(
                        [source], ("mounts", twice), f"the mount {twice!r} is described in another file, too"
                    )
                mounts |= table
            elif name not in _commands():
                hint = nearest(name, ["daemon", "defaults", "mounts", "mount"])
                raise error_at([source], (name,), f"there is no table {name!r}", hint)
    for name in NOT_OF_MOUNTS:
        shared["mount"].pop(name.replace("_", "-"), None)
    defaults = shared["mount"] | shared["defaults"]
    environment = defaults.pop("environment", {})
    whole = {}
    for name, table in mounts.items():
        if isinstance(table, dict):
            own = table.get("environment", {})
            both = {**environment, **own} if isinstance(own, dict) and isinstance(environment, dict) else own
            whole[name] = {**defaults, **table, "environment": both}
        else:
            whole[name] = table
    return {**shared, "mounts": whole, **others}


@cache
def _commands() -> frozenset[str]:
    from ckptfs.cli.application import COMMANDS

    return frozenset(COMMANDS)


def error_at(sources: list[Source], where: Where, said: str, hint: str | None = None) -> ConfigurationError:
    """Return an error that names file and line: of the mount itself, else of what holds for all."""
    places = [where]
    if where[:1] == ("mounts",) and len(where) > 2:
        places = [where, ("defaults", *where[2:]), ("mount", *where[2:]), where[:2]]
    for place in places:
        for source in reversed(sources):
            if _has(source.tables, place) and (line := source.line_of(place)):
                return ConfigurationError(f"{source.path}:{line}: {said}", hint=hint)
    for source in sources:
        if line := source.line_of(where):
            return ConfigurationError(f"{source.path}:{line}: {said}", hint=hint)
    return ConfigurationError(f"{sources[0].path}: {said}", hint=hint)
