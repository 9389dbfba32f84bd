"""Options of every command that opens a store: its key, what was seen of it before, how S3 is to encrypt."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ckptfs.cli.parameters import PATH, setting

if TYPE_CHECKING:
    from ckptfs.crypto.secret import KeySource
    from ckptfs.store.base import Store
    from ckptfs.store.server_encryption import ServerEncryption
    from ckptfs.versions.opening import Access

_KEY_OPTIONS = (
    setting("--key-file", type=PATH, metavar="FILE", help="The key of an encrypted store is in this file."),
    setting("--key-command", metavar="COMMAND", help="The key is what this prints. Else: $CKPTFS_KEY."),
)
_SSE_OPTIONS = (
    setting("--sse", type=click.Choice(["AES256", "aws:kms"]), help="Have S3 encrypt what is written, as well."),
    setting("--sse-kms-key-id", metavar="ID", help="With --sse aws:kms: that key of KMS."),
)
_ROLLBACK_OPTION = click.option(
    "--accept-rollback", is_flag=True, help="Take the store as it is, although it was seen in a newer state."
)
_CACHE_OPTION = setting(
    "--cache-dir", type=PATH, help="Where it is kept what was seen of stores.  [default: as for mount]"
)
_RANKS = {ParameterSource.COMMANDLINE: 0, ParameterSource.ENVIRONMENT: 1, ParameterSource.DEFAULT_MAP: 2}
_NAMES = ("key_file", "key_command", "accept_rollback", "cache_dir", "sse", "sse_kms_key_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAccess:
    """What the options of a command say."""

    key: "KeySource | None" = None
    accept_rollback: bool = False
    cache_dir: Path | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None

    def open(self, url: str) -> "Store":
        """Open a store by its address, locked if it is encrypted."""
        from ckptfs.store.open import open_store

        return open_store(url, server_encryption=server_encryption(self.sse, self.sse_kms_key_id))

    def access(self) -> "Access":
        """Return what opens its history."""
        from ckptfs.cache.directory import high_water_directory
        from ckptfs.cache.high_water import HighWater
        from ckptfs.fs.options import default_cache_directory
        from ckptfs.versions.opening import Access

        try:
            directory = high_water_directory(self.cache_dir or default_cache_directory())
        except RuntimeError:
            # a user of a container that has no home: nothing is remembered
            return Access(key=self.key)
        return Access(key=self.key, high_water=HighWater(directory, forgets=self.accept_rollback))


def server_encryption(sse: str | None, kms_key_id: str | None) -> "ServerEncryption | None":
    """Return what `--sse` and `--sse-kms-key-id` say. Raises UsageError: the second without the first."""
    from ckptfs.store.server_encryption import ServerEncryption

    if kms_key_id is not None and sse != "aws:kms":
        raise click.UsageError("--sse-kms-key-id goes with --sse aws:kms")
    return ServerEncryption(sse, kms_key_id) if sse is not None else None


def given_key(key_file: Path | None, key_command: str | None) -> "KeySource | None":
    """Return where the key is: a flag counts before the environment, and that before the settings file."""
    from ckptfs.fs.keys import command_key, file_key, take_variable

    ctx = click.get_current_context()
    found: list[tuple[int, KeySource]] = []
    if key_file is not None:
        found.append((_rank(ctx, "key_file"), file_key(key_file)))
    if key_command:
        found.append((_rank(ctx, "key_command"), command_key(key_command)))
    if (variable := take_variable()) is not None:
        found.append((_RANKS[ParameterSource.ENVIRONMENT], variable))
    return min(found, key=itemgetter(0))[1] if found else None


def _rank(ctx: click.Context, name: str) -> int:
    return _RANKS[ctx.get_parameter_source(name) or ParameterSource.DEFAULT_MAP]


def key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for a command that passes them on: `mount`."""
    for option in reversed((*_KEY_OPTIONS, _ROLLBACK_OPTION, *_SSE_OPTIONS)):
        command = option(command)
    return command


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as one argument, `access`."""
    return _collected(command, (*_KEY_OPTIONS, _ROLLBACK_OPTION, _CACHE_OPTION))


def writing_access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As access_options, for a command that writes to the store, too."""
    return _collected(command, (*_KEY_OPTIONS, _ROLLBACK_OPTION, _CACHE_OPTION, *_SSE_OPTIONS))


def _collected(command: Callable[..., Any], options: tuple[Callable[[Any], Any], ...]) -> Callable[..., Any]:
    @wraps(command)
    def run(*args: Any, **values: Any) -> Any:
        given = {name: values.pop(name) for name in _NAMES if name in values}
        key = given_key(given.pop("key_file"), given.pop("key_command"))
        return command(*args, access=StoreAccess(key=key, **given), **values)

    collecting: Callable[..., Any] = run
    for option in reversed(options):
        collecting = option(collecting)
    return collecting
