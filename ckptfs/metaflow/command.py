"""The commands of ckptfs that a task needs, in processes of their own: the task itself imports the client alone."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckptfs.errors import CkptfsError
from ckptfs.metaflow.scope import Scope
from ckptfs.watch_table import is_alive

# what `ckptfs log` says of a place in which no task has saved; its exit code is the same for every failure
_NO_STORE = ("is not a ckptfs store", "cannot be used: No such file or directory")

# what `ckptfs mount` says where there is /dev/fuse, and nobody may mount, as in most containers
_NO_FUSE = ("libfuse could not mount", "cannot load libfuse")

_ERROR = "ckptfs: error: "


class CommandError(CkptfsError):
    """A command of ckptfs failed; the fact is what it said."""


def run(*arguments: str | Path) -> str:
    """Run a command; return what it printed. Raises CommandError."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ckptfs", *map(str, arguments)],
        env=_environment(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # before it there may be warnings of the packages that it imports
        fact = next((line for line in lines if line.startswith(_ERROR)), lines[0])
        hint = lines[-1].partition("hint: ")[2] if len(lines) > 1 else ""
        raise CommandError(fact.removeprefix(_ERROR), hint=hint or None)
    return done.stdout


def mount(scope: Scope) -> str | None:
    """Show a task's store at its mount point, unless an earlier attempt's mount is there still, and can save.

    Where nothing can be mounted the directory is watched instead. A writer of the same store can only be an earlier
    attempt that Metaflow has given up, on whatever machine: it is not waited for, and can commit nothing any more.

    Returns:
        Why it is watched though there is /dev/fuse.
    """
    if is_mounted(scope.mountpoint):
        if not is_fenced(scope.mountpoint):
            return None
        give_up(scope)
    scope.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    scope.mountpoint.mkdir(exist_ok=True)
    arguments = (scope.store, scope.mountpoint, "--cache-dir", scope.cache, "--takeover")
    why = None
    if os.access("/dev/fuse", os.R_OK | os.W_OK) and not os.environ.get("CKPTFS_METAFLOW_WATCH"):
        try:
            run("mount", *arguments)
            return None
        except CommandError as error:
            if not error.fact.startswith(_NO_FUSE):
                raise
            why = error.fact
    run("watch", *arguments)
    return why


def give_up(scope: Scope) -> None:
    """Take away a mount that can save nothing more; what it had captured and not uploaded goes aside."""
    with suppress(CommandError):
        run("umount", scope.mountpoint)


def umount(scope: Scope) -> None:
    """Take the mount away when all is durable, and the cache with it. Raises CommandError: both stay then."""
    run("umount", scope.mountpoint)
    shutil.rmtree(scope.directory, ignore_errors=True)


def is_mounted(mountpoint: Path) -> bool:
    """True if there is a mount that answers, or a watch that lives."""
    status = _status(mountpoint)
    return bool(status.get("store")) and (status.get("kind") != "watch" or is_alive(mountpoint))


def is_fenced(mountpoint: Path) -> bool:
    """True if another writer took the store over from what is mounted there."""
    return bool(_status(mountpoint).get("fenced"))


def _status(mountpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((mountpoint / ".status").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def versions(store: str) -> list[dict[str, Any]]:
    """Return the versions of a store, newest first; none if there is no such store.

    Raises:
        CommandError: It cannot be asked. Who took that for no version would begin anew what can be gone on with.
    """
    try:
        return list(json.loads(run("log", store, "--json")))
    except CommandError as error:
        if error.fact.endswith(_NO_STORE):
            return []
        raise


def fetch(store: str, number: int, below: str, target: Path) -> None:
    """Write what a version has in one directory into another. Raises CommandError."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ckptfs-", dir=target) as temporary:
        run("restore", store, temporary, "--version", str(number), below)
        for path in (Path(temporary) / below).iterdir():
            replace(path, target / path.name)


def replace(source: Path, target: Path) -> None:
    """Rename, also over a directory."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(source, target)


def remove(path: Path) -> None:
    """Remove a file, or a directory with what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: Metaflow's S3 endpoint is that of the stores beside its own, too."""
    endpoint = own.get("METAFLOW_S3_ENDPOINT_URL")
    there = {"AWS_ENDPOINT_URL_S3": endpoint} if endpoint else {}
    return {**there, **own, "CKPTFS_DEBUG": ""}
