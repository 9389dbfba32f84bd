"""What all callbacks share: which directory, how often, and with what note."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptfs.client import Checkpoint, Version, checkpoint
from ckptfs.errors import InvalidInputError, MountError, NotDurableError

Where = Checkpoint | str | os.PathLike[str] | None
"""A Checkpoint, a directory of a mount, or None for $CKPTFS_DIR."""


# as long as ranks wait for one that loads: the upload of a large version may take minutes
_FOLLOW_TIMEOUT_S = 1800.0
_LOOK_S = 0.1


def open_checkpoint(where: Where) -> Checkpoint:
    """Return the Checkpoint of a directory, in which the first rank saves (B4); one that is given, as it is."""
    return where if isinstance(where, Checkpoint) else checkpoint(where, ranks="zero")


def go_back(where: Where) -> Checkpoint:
    """Return the Checkpoint of a directory that has been taken back (B3): to the newest version, or the chosen one."""
    found = open_checkpoint(where)
    if found.has_version and found.is_saver:
        found.load(found.chosen)
    return found


def come_to(found: Checkpoint, number: int, timeout_s: float = _FOLLOW_TIMEOUT_S) -> None:
    """Return when a read-only mount shows the version that the first rank, on another machine, goes on from.

    That may be on its way to the store still. At any other mount, return at once.

    Raises:
        MountError: The mount does not follow: it never will.
        NotDurableError: It took too long.
    """
    deadline_s = time.monotonic() + timeout_s
    while (status := found.info())["read_only"] and status["version"] < number:
        behind = f"{status['mountpoint']} shows version {status['version']}, and the first rank has version {number}"
        if not status["follow"]:
            raise MountError(behind, hint="mount it with --read-only --follow")
        if time.monotonic() > deadline_s:
            raise NotDurableError(f"{behind}, after {timeout_s:g} s")
        time.sleep(_LOOK_S)


def saved_file(found: Checkpoint, name: str) -> Path | None:
    """Return a file of the version that is gone on from; None if there is none, whatever is half written there."""
    path = found.directory / name
    return path if found.has_version and path.exists() else None


class Saves:
    """The saves of one training run.

    Args:
        where: The directory.
        every: Steps between two saves.

    Raises:
        InvalidInputError: `every` is no number of steps.
    """

    def __init__(self, where: Where, every: int) -> None:
        if not isinstance(every, int | float) or not every >= 1 or every % 1:
            raise InvalidInputError(f"every is {every!r}, expected a whole number of steps, from 1")
        self.checkpoint = open_checkpoint(where)
        self.every = every
        self.saved_step: int | None = None

    def begin(self) -> None:
        """Another training begins: its steps are not those that were saved."""
        self.saved_step = None

    def is_due(self, step: int) -> bool:
        """True if this rank has to save after so many steps, and has not yet."""
        return step % self.every == 0 and self.is_left(step)

    def is_left(self, step: int) -> bool:
        """True if this rank has to save a step at the end of training."""
        return self.checkpoint.is_saver and step != self.saved_step

    def save(self, metrics: Mapping[str, Any], **step: int) -> Version:
        """Touch the marker (B2).

        Args:
            metrics: Those that are no numbers are left out, and so is one of the step's own name.
            step: The step, under the name that the framework has for it.
        """
        (self.saved_step,) = step.values()
        numbers = {name: number for name, value in metrics.items() if (number := _number(value)) is not None}
        return self.checkpoint.save({**step, **numbers, **step})


def _number(value: Any) -> float | int | None:
    """Return a number as Python has it; None if it is none, as images and histograms are."""
    if isinstance(value, int):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
