"""Watched directories as commands see them."""

import os
import signal
from pathlib import Path
from typing import Any

from ckptfs.errors import CkptfsError, InvalidInputError, MountError
from ckptfs.watch_table import STATUS, Watched, is_alive, read_object

_NAMES = (STATUS, ".save", ".save.status", ".restore")


class DeadWatchError(MountError):
    """The process of a watch is gone."""


def status_of(watched: Watched) -> dict[str, Any]:
    """Return what a watch says of itself. Raises DeadWatchError."""
    status = read_object(watched.directory / STATUS)
    if status is None or not is_alive(watched.directory):
        raise DeadWatchError(
            f"the process that watched {watched.directory} is gone",
            hint=f"`ckptfs watch {watched.store} {watched.directory}` again: what was captured is kept",
        )
    return status


def status_or_error(watched: Watched) -> dict[str, Any]:
    """Return what a watch says of itself, or why it says nothing."""
    try:
        return status_of(watched)
    except CkptfsError as error:
        return {"kind": "watch", "mountpoint": str(watched.directory), "error": error.fact, "hint": error.hint}


def end_watch(watched: Watched) -> int:
    """Tell the process of a watch to end; return a descriptor of it, readable when it has ended.

    Raises:
        InvalidInputError: It is not among the processes that can be seen from here.
    """
    try:
        # opened before it is looked at, so that its number cannot become another's
        process_fd = os.pidfd_open(watched.pid)
    except OSError:
        process_fd = -1
    if process_fd < 0 or not _works_in(watched):
        raise InvalidInputError(
            f"the process that watches {watched.directory} (pid {watched.pid}) cannot be seen from here",
            hint="end it where it runs, by SIGTERM",
        )
    signal.pidfd_send_signal(process_fd, signal.SIGTERM)
    return process_fd


def clear_away(directory: Path) -> None:
    """Remove the control files of a watch that is gone."""
    for name in _NAMES:
        (directory / name).unlink(missing_ok=True)


def _works_in(watched: Watched) -> bool:
    process = Path(f"/proc/{watched.pid}")
    try:
        is_ours = b"ckptfs" in (process / "cmdline").read_bytes()
        return is_ours and os.path.samefile(process / "cwd", watched.directory)
    except OSError:
        return False
