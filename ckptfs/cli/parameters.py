"""What the commands' parameters have in common: their types, their environment variables, and the options of all."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ckptfs.cli.settings import load_settings
from ckptfs.units import parse_duration, parse_size

_LONGEST_LEASE_S = 86400.0

_Number = TypeVar("_Number", int, float)


@dataclass
class Invocation:
    """What holds for the whole run of the program."""

    config: Path | None = None
    verbose: bool = False


def size(value: str | int) -> int:
    """Return the bytes of an option written as `20G` or `512MiB`."""
    return _parsed(parse_size, value)


def duration(value: str | float) -> float:
    """Return the seconds of an option written as `30s` or `5m`."""
    return _parsed(parse_duration, value)


def lease(value: str | float) -> float:
    """Return the seconds of a lease: what a lease record holds (FORMAT.md 6)."""
    seconds = duration(value)
    if not 0 < seconds <= _LONGEST_LEASE_S:
        raise click.BadParameter(f"{value!r} is not above 0 and up to {_LONGEST_LEASE_S / 3600:g}h")
    return seconds


def _parsed(parse: Callable[[str], _Number], value: str | _Number) -> _Number:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        # click shows a ValueError's value, and not what it says
        raise click.BadParameter(str(error)) from error


class _Path(click.Path):
    """A path; an empty one, of a variable that is not set, is not the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)


def version(value: str) -> str:
    """Return a version as it was given; an empty one, of a variable that is not set, is not the newest."""
    if not value:
        raise click.BadParameter("it is empty")
    return value


def store_address(value: str) -> str:
    """Return what was given for a STORE; an empty one, of a variable that is not set, is not the working directory."""
    if not value.strip():
        raise click.BadParameter("it is empty")
    return value


def setting(flag: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a decorator for an option that can also be set by CKPTFS_<NAME> and in the settings file."""
    name = flag.removeprefix("--").replace("-", "_")
    return click.option(flag, name, envvar=f"CKPTFS_{name.upper()}", show_envvar=True, **attributes)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def config_option() -> click.Option:
    """Return `--config`, which also fills in the command's settings."""
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        is_eager=True,
        callback=_apply_settings,
        help="Settings file (TOML) instead of $CKPTFS_CONFIG, ~/.config/ckptfs/ckptfs.toml, /etc/ckptfs/ckptfs.toml.",
    )


def verbose_option() -> click.Option:
    """Return `-v`."""
    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_be_verbose,
        help="Log what is done; show tracebacks.",
    )


class Command(click.Command):
    """A command with the options that every command has."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        # not the program's: whoever makes a command's context alone would leave it without -h from then on
        attributes["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(*args, **attributes)
        self.params += [config_option(), verbose_option()]


def _apply_settings(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    invocation = ctx.ensure_object(Invocation)
    if value is not None:
        invocation.config = value
    # the program's own options come first; its command then reads the file that either named
    if not isinstance(ctx.command, click.Group):
        ctx.default_map = load_settings(invocation.config or _config_from_environment(), ctx)


def _config_from_environment() -> Path | None:
    named = os.environ.get("CKPTFS_CONFIG")
    return Path(named) if named else None


def _be_verbose(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value:
        return
    ctx.ensure_object(Invocation).verbose = True
    # logging costs 10 ms of start-up, and only -v needs it here
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("ckptfs").setLevel(logging.DEBUG)
