"""One version: its number, and what has become of it."""

import time
from pathlib import Path
from typing import Any

from ckptfs.client.place import Place
from ckptfs.client.watched import without_versions
from ckptfs.errors import FencedError, NoSuchVersionError, NotDurableError

SKIPPED = "skipped"
"""The state of what was not saved, because another rank saves for all."""

# 5 ms to 250 ms: a small version is durable on a local store in 30 ms; one that takes minutes costs 4 looks a second
_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.25


class Version:
    """A version of a mount.

    Attributes:
        number: From 1; 0 of one that was skipped.
    """

    def __init__(self, place: Place, number: int) -> None:
        self._place = place
        self.number = number

    @property
    def state(self) -> str:
        """`captured`, `uploading`, `durable` or `failed`, as it is now; `skipped` if nothing was saved."""
        return str(self.info()["state"])

    @property
    def note(self) -> dict[str, Any] | str | None:
        """What was said of it when it was saved."""
        note: dict[str, Any] | str | None = self.info()["note"]
        return note

    @property
    def path(self) -> Path:
        """Its files, read-only: the directory as this version has it, from when it is durable (not where watched)."""
        return self._place.root / ".versions" / str(self.number) / self._place.below

    def info(self) -> dict[str, Any]:
        """Return `version`, `state`, `note`, `error`, `files`, `bytes` and `bytes_uploaded`.

        Raises:
            NoSuchVersionError: There is no such version, or no longer.
            MountError: Nobody serves the mount.
        """
        if not self.number:
            return dict.fromkeys(("note", "error")) | {"version": 0, "state": SKIPPED, "files": 0, "bytes": 0}
        known = _of_status(self._place.status(), self.number)
        if known is not None:
            return known
        if self._place.is_watched:
            raise without_versions(self._place.root)
        try:
            return self._place.read(f".versions/{self.number}/.save")
        except FileNotFoundError as error:
            raise NoSuchVersionError(f"{self._place.root} has no version {self.number}") from error

    def wait(self, timeout_s: float | None = None, *, timeout: float | None = None) -> "Version":
        """Return when it is durable in the store; at once if it was skipped.

        Args:
            timeout_s: How long to wait at most; None waits as long as it takes.
            timeout: The same, under the name that the standard library has for it.

        Raises:
            NotDurableError: It failed, or the time is over; it stays pending in the latter case.
            FencedError: Another writer took the store over before it was durable.
        """
        if timeout_s is None:
            timeout_s = timeout
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _FIRST_LOOK_S
        while self.number:
            status = self._place.status()
            info = next((each for each in status["pending"] if each["version"] == self.number), None)
            if info is None:
                break
            if status.get("fenced"):
                raise FencedError(f"version {self.number} can never become durable: {status['fenced']}")
            if info["state"] == "failed":
                raise NotDurableError(f"version {self.number} could not be stored: {info['error']}")
            left_s = float("inf") if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                why = f": {info['error']}" if info.get("error") else ""
                raise NotDurableError(f"version {self.number} is not durable after {timeout_s:g} s{why}")
            time.sleep(min(pause_s, left_s))
            pause_s = min(1.5 * pause_s, _LAST_LOOK_S)
        return self

    def __int__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and (self._place, self.number) == (other._place, other.number)

    def __hash__(self) -> int:
        return hash((self._place, self.number))

    def __repr__(self) -> str:
        return f"<Version {self.number} of {self._place.root}>"


def _of_status(status: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Return what `.status` says of a version that is pending or the newest, None if it says nothing."""
    newest = [status["newest"]] if status.get("newest") else []
    found = next((each for each in (*status["pending"], *newest) if each["version"] == number), None)
    return dict(found) if found is not None else None
