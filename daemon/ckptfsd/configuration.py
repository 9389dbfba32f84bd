"""The configuration: which mounts there are to be, and how the daemon itself behaves.

A file, and what is in the directory `conf.d` beside it (`*.toml`, in the order of their names), put together key by
key (configuration_files.py); a mount is described in one file. The settings of a mount are the options of `ckptfs
mount` under the same names (settings.py). A mount's own come first, then [defaults], then [mount] (which `ckptfs
mount` reads too).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ckptfs.cli.commands import mount as mount_command
from ckptfs.errors import CkptfsError, InvalidInputError
from ckptfs.fs.launch import check
from ckptfs.fs.options import MountOptions
from ckptfsd.configuration_files import Source, configuration_files, error_at
from ckptfsd.settings import DaemonSettings, checked_tables, mount_setting_keys


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


def load_configuration(path: Path) -> Configuration:
    """Read and check a configuration.

    Raises:
        ConfigurationError: It cannot be read, or is not valid.
    """
    sources = [Source.read(each) for each in configuration_files(path)]
    valid = checked_tables(sources)
    daemon: DaemonSettings = valid.daemon
    if daemon.listen is not None and daemon.token_file is None:
        raise error_at(
            sources, ("daemon", "listen"), "`listen` needs a token-file", "openssl rand -hex 32 >/etc/ckptfs/token"
        )
    mounts = {}
    for name, entry in valid.mounts.items():
        try:
            mounts[name] = _mount_settings(name, entry, verbose=daemon.log_level == "debug")
        except CkptfsError as error:
            raise error_at(sources, ("mounts", name), error.fact, error.hint) from error
    _check_places(sources, mounts)
    _check_writers(sources, mounts)
    return Configuration(daemon=daemon, mounts=mounts)


def _mount_settings(name: str, entry: Any, *, verbose: bool) -> MountSettings:
    given = entry.model_dump()
    store, mountpoint, environment = given.pop("store"), given.pop("mountpoint"), given.pop("environment")
    given = {key: False if value is None and _is_flag(key) else value for key, value in given.items()}
    if given.get("follow") and not (given.get("read_only") or given.get("version")):
        raise InvalidInputError("follow goes with read-only or version")
    options = mount_command.mount_options(store, mountpoint, given, verbose=verbose)
    check(options)
    return MountSettings(name=name, options=options, environment=environment)


@cache
def _flags() -> frozenset[str]:
    return frozenset(setting.name for setting in mount_setting_keys() if setting.is_flag)


def _is_flag(name: str) -> bool:
    return name in _flags()


def _check_places(sources: list[Source], mounts: Mapping[str, MountSettings]) -> None:
    """Refuse two mounts at one place, or one inside another: making the inner one would touch the outer."""
    places: dict[Path, str] = {}
    for name, mount in mounts.items():
        place = mount.options.mountpoint
        for above in (place, *place.parents):
            if above in places:
                where = "at" if above == place else "inside"
                fact = f"the mount point {place} is {where} that of {places[above]!r}"
                raise error_at(sources, ("mounts", name, "mountpoint"), fact)
        below = next((other for other in places if other.is_relative_to(place)), None)
        if below is not None:
            fact = f"the mount point {place} is above that of {places[below]!r}"
            raise error_at(sources, ("mounts", name, "mountpoint"), fact)
        places[place] = name


def _check_writers(sources: list[Source], mounts: Mapping[str, MountSettings]) -> None:
    """Refuse two mounts that would write one store: the second would be refused by the first for ever."""
    writers: dict[tuple[str, str], str] = {}
    for name, mount in mounts.items():
        if mount.options.read_only or mount.options.version is not None:
            continue
        # the same URL means another store where the environment names another server
        store = (mount.options.store.rstrip("/"), mount.environment_digest)
        other = writers.setdefault(store, name)
        if other != name:
            raise error_at(
                sources,
                ("mounts", name, "store"),
                f"{mount.options.store} is written by the mount {other!r} already, and a store has one writer",
                "make one of them read-only (and `follow`), or give it another prefix",
            )
