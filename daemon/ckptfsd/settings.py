"""What can be set: each setting's name, type and default, and what is said of a wrong one.

The settings of a mount are taken from the command `ckptfs mount`, so that what it learns is known here.
"""

import ipaddress
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from ckptfs.cli.commands import mount as mount_command
from ckptfs.cli.daemon_socket import default_runtime_directory
from ckptfs.cli.settings import Setting, nearest, settings_of
from ckptfs.errors import InvalidInputError
from ckptfs.store.open import check_url
from ckptfs.units import parse_duration
from ckptfsd.configuration_files import NOT_OF_MOUNTS, ConfigurationError, Source, Where, error_at, put_together

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


def _loopback(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ValueError("it is HOST:PORT, as 127.0.0.1:9470 or [::1]:9470")
    try:
        is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        raise ValueError(
            "only an address of this machine itself (127.0.0.1, [::1]); put a proxy with TLS before it for others"
        )
    return value


def _absolute(value: Any) -> Path:
    """Return a path. The daemon's own directory is none that a relative one could be meant from."""
    if not isinstance(value, str | Path) or not Path(value).is_absolute():
        given = os.fspath(value) if isinstance(value, Path) else value
        raise ValueError(f"{given!r} is not an absolute path")
    return Path(os.path.normpath(value))


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]


class DaemonSettings(BaseModel):
    """Table [daemon]."""

    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: name.replace("_", "-"), frozen=True)

    runtime_dir: AbsolutePath = Field(
        default_factory=default_runtime_directory, description="Where the control socket is."
    )
    socket_group: str | None = Field(None, description="A group that may use the control socket, besides its owner.")
    listen: Annotated[str, AfterValidator(_loopback)] | None = Field(
        None, description="HOST:PORT on loopback for the same API, with a token."
    )
    token_file: AbsolutePath | None = Field(None, description="File with the token that `listen` asks for.")
    log_format: Literal["auto", "text", "json", "journal"] = Field(
        "auto", description="auto: text on a terminal, fields in the journal under systemd, else JSON."
    )
    log_level: Literal["info", "debug"] = Field("info", description="How much the daemon and its mounts log.")
    watch: bool = Field(True, description="Take a changed configuration at once, and not only on SIGHUP.")
    status_interval: Annotated[float, BeforeValidator(_duration), Field(gt=0)] = Field(
        5.0, description="How often each mount is asked how it is."
    )
    hang_timeout: Annotated[float, BeforeValidator(_duration), Field(ge=0)] = Field(
        120.0, description="A mount process that has not answered for so long is replaced; 0: never."
    )


def checked_tables(sources: list[Source]) -> Any:
    """Return what the files say together, with every value of its type.

    Raises:
        ConfigurationError: Something cannot be set, or not so.
    """
    tables = put_together(sources)
    try:
        return _model().model_validate(tables)
    except ValidationError as error:
        raise _explained(error, sources) from error


def mount_setting_keys() -> list[Setting]:
    """Return what can be set for a mount, besides `store`, `mountpoint` and `environment`."""
    return [setting for setting in settings_of(mount_command.command) if setting.name not in NOT_OF_MOUNTS]


@cache
def _model() -> type[BaseModel]:
    settings: dict[str, Any] = {
        setting.name: (Annotated[Any, BeforeValidator(_converting(setting))], Field(None, alias=setting.key))
        for setting in mount_setting_keys()
    }
    strict = ConfigDict(extra="forbid")
    settings["environment"] = (dict[str, str], Field(default_factory=dict))
    shared: Any = create_model("Shared", __config__=strict, **settings)
    settings["store"] = (Annotated[str, AfterValidator(_store)], ...)
    settings["mountpoint"] = (Annotated[AbsolutePath, AfterValidator(_mountpoint)], ...)
    mount: Any = create_model("Mount", __config__=strict, **settings)
    name: Any = Annotated[str, AfterValidator(_name)]
    tables: dict[str, Any] = {
        "daemon": (DaemonSettings, Field(default_factory=lambda: DaemonSettings.model_validate({}))),
        # before the mounts that they are written into: what is wrong there is said of the table that has it
        "mount": (shared, ...),
        "defaults": (shared, ...),
        "mounts": (dict[name, mount], Field(default_factory=dict)),
    }
    return create_model("Configuration", __config__=strict, **tables)


def _converting(setting: Setting) -> Any:
    def convert(value: Any) -> Any:
        try:
            converted = setting.convert(value)
        except InvalidInputError as error:
            raise ValueError(error.fact.removeprefix(f"{setting.key}: ")) from error
        return _absolute(converted) if isinstance(converted, Path) else converted

    return convert


def _store(value: str) -> str:
    try:
        check_url(value)
    except InvalidInputError as error:
        raise ValueError(f"{error.fact}: {error.hint}" if error.hint else error.fact) from error
    return value


def _mountpoint(value: Path) -> Path:
    if value == Path("/"):
        raise ValueError("a mount point is not /")
    return value


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError("a mount's name has letters, digits, `.`, `_` and `-`, at most 100")
    return value


def _explained(error: ValidationError, sources: list[Source]) -> ConfigurationError:
    """Return the first thing that is wrong, in words."""
    first = error.errors()[0]
    where = tuple(key for key in first["loc"] if key != "[key]")
    key = ".".join(map(str, where))
    hint = None
    if first["type"] == "extra_forbidden":
        known = list(_keys_of(where))
        said, hint = f"there is no setting {where[-1]!r}", nearest(str(where[-1]), known)
    elif first["type"] == "missing":
        said = f"{where[-1]!r} is missing"
    else:
        said = first["msg"].removeprefix("Value error, ")
    return error_at(sources, where, f"{key}: {said}", hint)


def _keys_of(where: Where) -> Iterator[str]:
    if where[0] == "daemon":
        yield from (str(each.alias) for each in DaemonSettings.model_fields.values())
    else:
        yield from ("store", "mountpoint", "environment", *(setting.key for setting in mount_setting_keys()))
