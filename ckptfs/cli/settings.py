"""Settings files: TOML with one table per command, whose keys are the command's options.

    [mount]
    cache-dir = "/scratch/ckptfs"
    drain-timeout = "10m"

A flag and an environment variable win over the file; the user's file wins over the system's. Where a file is named
(--config or $CKPTFS_CONFIG) it is the only one. `cache-dir` of [mount], and what says
how stores are encrypted, serve every command that has that option.
"""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ckptfs.errors import InvalidInputError

_SYSTEM_FILE = Path("/etc/ckptfs/ckptfs.toml")
_SHARED = ("cache_dir", "key_file", "key_command", "sse", "sse_kms_key_id")
"""Options of [mount] that mean the same in other commands."""
DAEMON_TABLES = ("daemon", "defaults", "mounts")
"""Tables of the same file that `ckptfsd` reads, and checks."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of a command that a settings file may have."""

    key: str
    """As it is written there."""
    name: str
    """Of the command's parameter."""
    help: str
    is_flag: bool
    convert: Callable[[Any], Any]
    """Returns the parameter's value for one of the file. Raises InvalidInputError."""


def load_settings(named: Path | None, ctx: click.Context) -> dict[str, Any]:
    """Return the defaults of a command from the settings files.

    Args:
        named: The file that the user named; it must exist.
        ctx: Context of the command that is about to run.

    Returns:
        Option name (with `_`) to a value of the option's type.

    Raises:
        InvalidInputError: A file cannot be read, or has a key or a value that the command does not know.
    """
    files = [named] if named is not None else [path for path in (_SYSTEM_FILE, _user_file()) if _is_there(path)]
    settings: dict[str, Any] = {}
    for path in files:
        tables = _read(path)
        settings |= {key: value for key, value in _check(path, "mount", tables, ctx).items() if key in _SHARED}
        settings |= _check(path, ctx.info_name or "", tables, ctx)
    return settings


def settings_of(command: click.Command) -> list[Setting]:
    """Return all options of a command that a settings file may have."""
    found = []
    for param in command.params:
        if isinstance(param, click.Option) and param.name and param.expose_value:
            key = param.name.replace("_", "-")

            def convert(value: Any, *, key: str = key, option: click.Option = param) -> Any:
                return _convert(key, option, value, None)

            found.append(Setting(key, param.name, param.help or "", bool(param.is_flag), convert))
    return found


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        # in a directory of somebody else, whose $HOME was left to us (sudo, setpriv)
        return False


def _user_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "ckptfs" / "ckptfs.toml"


def _read(path: Path) -> dict[str, Any]:
    # 20 ms to import, and most command lines have no settings file
    import tomllib

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot read the settings file {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInputError(f"{path} is not TOML: {error}") from error
    return tables


def _check(path: Path, table: str, tables: dict[str, Any], ctx: click.Context) -> dict[str, Any]:
    """Return one table's values for the command, each checked."""
    commands = _command_names(ctx)
    for name, value in tables.items():
        if name in DAEMON_TABLES:
            continue
        if name not in commands or not isinstance(value, dict):
            raise InvalidInputError(
                f"{path}: {name!r} is not a table named after a command", hint=nearest(name, commands)
            )
    values: dict[str, Any] = {}
    options = {param.name: param for param in ctx.command.params if isinstance(param, click.Option) and param.name}
    for key, value in tables.get(table, {}).items():
        option = options.get(key.replace("-", "_"))
        if option is not None and option.expose_value:
            values[str(option.name)] = _convert(f"{path}: {table}.{key}", option, value, ctx)
        elif table == ctx.info_name:
            names = [str(name).replace("_", "-") for name, param in options.items() if param.expose_value]
            raise InvalidInputError(f"{path}: {table} has no setting {key!r}", hint=nearest(key, names))
    return values


def _convert(where: str, option: click.Option, value: Any, ctx: click.Context | None) -> Any:
    if option.is_flag != isinstance(value, bool) or isinstance(value, list | dict):
        wanted = "true or false" if option.is_flag else "one value, in quotes or a number"
        raise InvalidInputError(f"{where} is {value!r}, and should be {wanted}")
    if option.is_flag:
        return value
    try:
        return option.type.convert(str(value), option, ctx)
    except click.BadParameter as error:
        raise InvalidInputError(f"{where}: {error.message}") from error


def _command_names(ctx: click.Context) -> list[str]:
    root = ctx.find_root()
    return root.command.list_commands(root) if isinstance(root.command, click.Group) else [ctx.info_name or ""]


def nearest(word: str, words: list[str]) -> str:
    """Return a hint for a word that is none of those that are known."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(words))}"
