"""`mount.ckptfs` and `umount.ckptfs`: what mount(8) and umount(8) run for a ckptfs mount, from /etc/fstab or by hand.

    mount.ckptfs SOURCE DIRECTORY [-sfnv] [-t TYPE] [-o OPTIONS]      becomes   ckptfs mount SOURCE DIRECTORY --...
    umount.ckptfs DIRECTORY [-flnrv] [-t TYPE]                        becomes   ckptfs umount DIRECTORY

The options of `ckptfs mount` are options here, with `_` or `-`: `cache-dir=/scratch`, `keep_last=3`, `allow_other`.

Source: mount(8), "EXTERNAL HELPERS".
"""

import getopt
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import click

from ckptfs.cli.application import run
from ckptfs.cli.failures import describe, say_error
from ckptfs.cli.settings import nearest
from ckptfs.errors import InvalidInputError

DONE, USAGE, FAILED = 0, 1, 32
"""Exit codes of mount(8)."""

# mount(8)'s own, and those that say nothing about a mount that is always nosuid and nodev, and keeps no atimes
_OF_OTHERS = (
    *("defaults", "rw", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"),
    *("async", "suid", "nosuid", "dev", "nodev", "silent", "loud", "lazytime", "nolazytime"),
    *("atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime"),
)
_OF_OTHERS_PREFIXES = ("x-", "X-", "comment=", "uhelper=", "user=")
_NOT_HERE = frozenset(("foreground", "help", "verbose"))
_OPTION = re.compile(r'((?:"[^"]*"|[^,"])+)(?:,|$)')


@dataclass(slots=True)
class _Request:
    """What a line of options asks for."""

    arguments: list[str] = field(default_factory=list)
    """For `ckptfs mount`."""
    executable: bool = True
    env_file: Path | None = None


def mount_main() -> NoReturn:
    """Run mount.ckptfs."""
    sys.exit(mount(sys.argv[1:]))


def umount_main() -> NoReturn:
    """Run umount.ckptfs."""
    sys.exit(umount(sys.argv[1:]))


def mount(arguments: Sequence[str]) -> int:
    """Mount as mount(8) asks; return its exit code."""
    try:
        flags, (source, directory) = _parse(arguments, "sfnvt:o:", 2)
        request = _understand(",".join(flags.get("-o", [])), sloppy="-s" in flags)
        if request.env_file is not None:
            _load_environment(request.env_file)
    except (InvalidInputError, getopt.GetoptError) as error:
        return _refuse("mount.ckptfs SOURCE DIRECTORY [-sfnv] [-t TYPE] [-o OPTIONS]", error)
    command = ["mount", source, directory, *request.arguments]
    if "-v" in flags:
        click.echo(f"mount.ckptfs: ckptfs {shlex.join(command)}")
    if "-f" in flags:
        return DONE
    code = run(command)
    if code == 0 and not request.executable:
        return _forbid_execution(Path(directory))
    # options are checked above, but not their values
    return {0: DONE, 2: USAGE}.get(code, FAILED)


def umount(arguments: Sequence[str]) -> int:
    """Unmount as umount(8) asks; return its exit code."""
    try:
        flags, (directory,) = _parse(arguments, "flnrvt:", 1)
    except (InvalidInputError, getopt.GetoptError) as error:
        return _refuse("umount.ckptfs DIRECTORY [-flnrv] [-t TYPE]", error)
    if not flags.keys() & {"-f", "-l"}:
        return DONE if run(["umount", directory]) == 0 else FAILED
    from ckptfs.fs.mountpoint import detach

    try:
        # the mount process is not asked, as it may hang; what is pending goes on being uploaded
        detach(Path(directory))
    except Exception as error:
        say_error(*describe(error))
        return FAILED
    return DONE


def _parse(arguments: Sequence[str], known: str, count: int) -> tuple[dict[str, list[str]], list[str]]:
    options, places = getopt.gnu_getopt(list(arguments), known)
    if len(places) != count:
        raise InvalidInputError(f"{count} argument{'s' if count > 1 else ''} wanted, {len(places)} given")
    flags: dict[str, list[str]] = {}
    for name, value in options:
        flags.setdefault(name, []).append(value)
    return flags, places


def _refuse(usage: str, error: InvalidInputError | getopt.GetoptError) -> int:
    if isinstance(error, InvalidInputError):
        say_error(error.fact, error.hint or f"usage: {usage}")
    else:
        say_error(error.msg, f"usage: {usage}")
    return USAGE


def _understand(text: str, *, sloppy: bool) -> _Request:
    """Return what the argument of -o asks for.

    Args:
        sloppy: Leave out what is not known, as mount(8)'s -s.

    Raises:
        InvalidInputError: An option is not known, or has a value and should not, or the other way round.
    """
    known = _mount_options()
    request = _Request()
    for option in (match[1].replace('"', "") for match in _OPTION.finditer(text)):
        name, equals, value = option.partition("=")
        name = name.replace("_", "-")
        if option in _OF_OTHERS or option.startswith(_OF_OTHERS_PREFIXES):
            continue
        if option == "remount":
            raise InvalidInputError("a mount's options cannot be changed in place", hint="umount it, and mount it anew")
        if option == "ro":
            request.arguments.append("--read-only")
        elif option in ("exec", "noexec"):
            request.executable = option == "exec"
        elif name == "env-file" and value:
            request.env_file = Path(value)
        elif name in known:
            if known[name] == bool(equals):
                what = "takes no value" if known[name] else "needs a value"
                raise InvalidInputError(f"the mount option {option!r} {what}")
            request.arguments.append(f"--{name}={value}" if equals else f"--{name}")
        elif not sloppy:
            raise InvalidInputError(f"unknown mount option {option!r}", hint=nearest(name, [*known, "ro", "env-file"]))
    return request


def _mount_options() -> dict[str, bool]:
    """Return the options of `ckptfs mount`, without the dashes, and whether each is a flag."""
    from ckptfs.cli.commands.mount import command

    options = [param for param in command.params if isinstance(param, click.Option)]
    named = {param.opts[-1].removeprefix("--"): param.is_flag for param in options}
    return {name: is_flag for name, is_flag in named.items() if name not in _NOT_HERE}


def _load_environment(path: Path) -> None:
    """Set the variables of a file of KEY=VALUE lines, as systemd's EnvironmentFile= has them."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InvalidInputError(f"cannot read the env-file {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals or not name.isidentifier():
            raise InvalidInputError(f"{path}, line {number}: {line.strip()!r} is not KEY=VALUE")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        os.environ[name] = value[1:-1] if quoted else value


def _forbid_execution(directory: Path) -> int:
    if os.geteuid() != 0:
        # `user` in fstab stands for noexec too, and what a user may execute here he may copy elsewhere
        click.echo(f"mount.ckptfs: noexec takes root: programs in {directory} can be executed", err=True)
        return DONE
    from ckptfs.fs.mountpoint import detach, forbid_execution

    try:
        forbid_execution(directory)
    except Exception as error:
        detach(directory)
        say_error(*describe(error))
        return FAILED
    return DONE
