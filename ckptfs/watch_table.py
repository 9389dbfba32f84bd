"""Watched directories (`ckptfs watch`), as others find them: by `.status` in them, and by the lock on them.

Needs the standard library alone. How a program of another language does the same is in docs/WATCH.md.
"""

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from ckptfs.mount_table import mount_at

STATUS = ".status"
# 64 MiB: all versions that wait are in it, with their notes: 12 MB of one each second, when the store is away for a day
_MOST_BYTES = 64 << 20


class Watched(NamedTuple):
    """A directory with the files of a watch in it, be that alive or not."""

    directory: Path
    store: str
    """The store's address."""
    pid: int
    """In the pid namespace where it runs."""


def watch_at(path: Path) -> Watched | None:
    """Return the watched directory that a path is in, None if it is in none."""
    absolute = Path(os.path.abspath(path))
    # a mount has a `.status` too, and one that hangs is not to be looked into
    if mount_at(absolute) is not None:
        return None
    return _above(absolute) or _above(absolute.resolve())


def watches() -> list[Watched]:
    """Return the directories that are watched on this machine, as far as this process may know of them."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ckptfs" not in (process / "cmdline").read_bytes():
                continue
            # a watch works in its directory
            watched = _read(Path(os.readlink(process / "cwd")))
        except OSError:
            continue  # it has ended, or is somebody else's
        if watched is not None and watched.pid == int(process.name):
            found[watched.directory] = watched
    return [watched for _, watched in sorted(found.items())]


def is_alive(directory: Path) -> bool:
    """True if the process that watches a directory lives, on this machine; also where that cannot be told."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True  # it holds the lock; or there are no locks here
    finally:
        os.close(fd)
    return False


def _above(path: Path) -> Watched | None:
    for directory in (path, *path.parents):
        if (watched := _read(directory)) is not None:
            return watched
    return None


def _read(directory: Path) -> Watched | None:
    status = read_object(directory / STATUS)
    if status is None or status.get("kind") != "watch":
        return None
    try:
        return Watched(directory, str(status["store"]), int(status["pid"]))
    except (KeyError, TypeError, ValueError):
        return None


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        try:
            value = json.loads(file.read(_MOST_BYTES))
        except ValueError:
            return None
    return value if isinstance(value, dict) else None
