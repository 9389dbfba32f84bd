"""The configuration: which mounts there are to be, and how the daemon itself behaves.

A file, and what is in the directory `conf.d` beside it (`*.toml`, in the order of their names), put together key by
key; a mount is described in one file. The settings of a mount are the options of `ckptfs mount` under the same names;
they are taken from that command, so that what it learns is known here. A mount's own come first, then [defaults], then
[mount] (which `ckptfs mount` reads too).
"""

import hashlib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from ckptfs.cli.commands import mount as mount_command
from ckptfs.cli.daemon_socket import default_runtime_directory
from ckptfs.cli.settings import Setting, nearest, settings_of
from ckptfs.errors import CkptfsError, InvalidInputError
from ckptfs.fs.launch import check
from ckptfs.fs.options import MountOptions
from ckptfs.store.open import check_url
from ckptfs.units import parse_duration

Path_ = tuple[str | int, ...]
"""Keys that lead to a value of a TOML document."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# what accepts a rollback does so once: `ckptfs log STORE --accept-rollback`, with the mount's --cache-dir
_NOT_OF_MOUNTS = {"foreground", "accept_rollback", "fuse_fd", "fuse_socket"}
_SHARED = ("daemon", "defaults", "mount")
"""Tables that are put together from all files."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSettings:
    """Table [mounts.NAME]: one mount that is to be up."""

    name: str
    options: MountOptions
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment_digest(self) -> str:
        """Tells two environments apart."""
        rows = json.dumps(sorted(self.environment.items())).encode()
        return hashlib.sha256(rows).hexdigest()[:16] if self.environment else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All of it, valid."""

    daemon: DaemonSettings
    mounts: Mapping[str, MountSettings]


class ConfigurationError(InvalidInputError):
    """The configuration is not valid; the fact names file and line."""


def configuration_files(path: Path) -> list[Path]:
    """Return the file and those of `conf.d` beside it, in the order in which they are read."""
    # as in a shell, `*` is no name that begins with a dot: editors and tools put such there while they write
    return [path, *sorted(each for each in path.parent.glob("conf.d/*.toml") if not each.name.startswith("."))]


def load_configuration(path: Path) -> Configuration:
    """Read and check a configuration.

    Raises:
        ConfigurationError: It cannot be read, or is not valid.
    """
    sources = [_Source.read(each) for each in configuration_files(path)]
    tables = _put_together(sources)
    try:
        valid = _model().model_validate(tables)
    except ValidationError as error:
        raise _explained(error, sources) from error
    daemon: DaemonSettings = valid.daemon  # type: ignore[attr-defined]
    if daemon.listen is not None and daemon.token_file is None:
        raise _at(
            sources, ("daemon", "listen"), "`listen` needs a token-file", "openssl rand -hex 32 >/etc/ckptfs/token"
        )
    mounts = {}
    for name, entry in valid.mounts.items():  # type: ignore[attr-defined]
        try:
            mounts[name] = _mount_settings(name, entry, verbose=daemon.log_level == "debug")
        except CkptfsError as error:
            raise _at(sources, ("mounts", name), error.fact, error.hint) from error
    _check_places(sources, mounts)
    return Configuration(daemon=daemon, mounts=mounts)


def mount_setting_keys() -> list[Setting]:
    """Return what can be set for a mount, besides `store`, `mountpoint` and `environment`."""
    return [setting for setting in settings_of(mount_command.command) if setting.name not in _NOT_OF_MOUNTS]


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


def _mount_settings(name: str, entry: Any, *, verbose: bool) -> MountSettings:
    given = entry.model_dump()
    store, mountpoint, environment = given.pop("store"), given.pop("mountpoint"), given.pop("environment")
    given = {key: False if value is None and _is_flag(key) else value for key, value in given.items()}
    if given.get("follow") and not given.get("read_only"):
        raise InvalidInputError("follow goes with read-only")
    options = mount_command.mount_options(store, mountpoint, given, verbose=verbose)
    check(options)
    return MountSettings(name=name, options=options, environment=environment)


@cache
def _flags() -> frozenset[str]:
    return frozenset(setting.name for setting in mount_setting_keys() if setting.is_flag)


def _is_flag(name: str) -> bool:
    return name in _flags()


def _check_places(sources: "list[_Source]", mounts: Mapping[str, MountSettings]) -> None:
    """Refuse two mounts at one place, or one inside another: making the inner one would touch the outer."""
    places: dict[Path, str] = {}
    for name, mount in mounts.items():
        place = mount.options.mountpoint
        for above in (place, *place.parents):
            if above in places:
                where = "at" if above == place else "inside"
                fact = f"the mount point {place} is {where} that of {places[above]!r}"
                raise _at(sources, ("mounts", name, "mountpoint"), fact)
        below = next((other for other in places if other.is_relative_to(place)), None)
        if below is not None:
            fact = f"the mount point {place} is above that of {places[below]!r}"
            raise _at(sources, ("mounts", name, "mountpoint"), fact)
        places[place] = name


# files, and where in them something stands


@dataclass(frozen=True, slots=True)
class _Source:
    """One file."""

    path: Path
    text: str
    tables: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "_Source":
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

    def line_of(self, where: Path_) -> int | None:
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


def _has(value: Any, where: Path_) -> bool:
    for key in where:
        is_index = isinstance(value, list) and isinstance(key, int) and key < len(value)
        if not is_index and not (isinstance(value, dict) and key in value):
            return False
        value = value[key]
    return True


def _put_together(sources: list[_Source]) -> dict[str, Any]:
    """Return one document, with what holds for all mounts written into each."""
    shared: dict[str, dict[str, Any]] = {name: {} for name in _SHARED}
    mounts: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for source in sources:
        for name, table in source.tables.items():
            if not isinstance(table, dict):
                raise _at(
                    [source],
                    (name,),
                    f"{name!r} is a value, and should be in a table",
                    "begin with [daemon] or [mounts.NAME]",
                )
            if name in _SHARED:
                shared[name] |= table
            elif name == "mounts":
                for twice in table.keys() & mounts.keys():
                    raise _at([source], ("mounts", twice), f"the mount {twice!r} is described in another file, too")
                mounts |= table
            elif name not in _commands():
                hint = nearest(name, ["daemon", "defaults", "mounts", "mount"])
                raise _at([source], (name,), f"there is no table {name!r}", hint)
    for name in _NOT_OF_MOUNTS:
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


def _explained(error: ValidationError, sources: list[_Source]) -> ConfigurationError:
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
    return _at(sources, where, f"{key}: {said}", hint)


def _keys_of(where: Path_) -> Iterator[str]:
    if where[0] == "daemon":
        yield from (str(each.alias) for each in DaemonSettings.model_fields.values())
    else:
        yield from ("store", "mountpoint", "environment", *(setting.key for setting in mount_setting_keys()))


def _at(sources: list[_Source], where: Path_, said: str, hint: str | None = None) -> ConfigurationError:
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
