"""One version: its number, and what has become of it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptfs.client.place import Place
from ckptfs.client.watched import without_versions
from ckptfs.errors import FencedError, MountError, NoSuchVersionError, NotDurableError

SKIPPED = "skipped"
"""The state of what was not saved, because another rank saves for all."""

# 5 ms to 250 ms: a small version is durable on a local store in 30 ms; one that takes minutes costs 4 looks a second
_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.25


class Version:
    """A version of a mount.

    Attributes:
        number: From 1; 0 of one that was skipped.
        said: What the marker said of it when this program saved it; None if it did not.
    """

    def __init__(self, place: Place, number: int, said: Mapping[str, Any] | None = None) -> None:
        self._place = place
        self.number = number
        # by its note it is told from one of another writer that has the same number
        self.said = said

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
            FencedError: Another writer took the store over, and another version has this number.
            MountError: Nobody serves the mount, or the store does not answer.
        """
        if not self.number:
            sizes = dict.fromkeys(("files", "bytes", "bytes_uploaded"), 0)
            return {"version": 0, "state": SKIPPED, "note": None, "error": None, **sizes}
        info = self._info(self._place.status())
        if info is None and self._place.is_watched:
            if self.said is None:
                raise without_versions(self._place.root)
            # neither pending nor the newest any more
            return {**self.said, "state": "durable", "error": None, "bytes_uploaded": None}
        if info is None:
            raise NoSuchVersionError(f"{self._place.root} has no version {self.number}")
        return info

    def is_of(self, place: Place) -> bool:
        """True if it is a version of the store that is there; also where that cannot be told."""
        if self._place == place:
            return True
        try:
            return bool(self._place.status()["store"] == place.status()["store"])
        except MountError:
            return True  # of another machine

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
                self._check_entered(status)
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

    def _info(self, status: dict[str, Any]) -> dict[str, Any] | None:
        """Return what is said of it; None if nothing is."""
        newest = [status["newest"]] if status.get("newest") else []
        found = next((each for each in (*status["pending"], *newest) if each["version"] == self.number), None)
        if found is None and not self._place.is_watched:
            try:
                found = self._place.read(f".versions/{self.number}/.save")
            except FileNotFoundError:
                return None
            except MountError as error:
                raise self._place.unanswered(status) or error from error
        note = None if self.said is None else self.said["note"]
        if found is not None and note is not None and found["note"] != note:
            raise FencedError(f"{self!r} did not enter history: another writer saved one of this number")
        return dict(found) if found is not None else None

    def _check_entered(self, status: dict[str, Any]) -> None:
        """Raise FencedError if it is not pending because it was set aside when the mount began anew."""
        if status["version"] < self.number:
            raise FencedError(f"{self!r} did not enter history: another writer took the store over")
        self._info(status)

    def __int__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and (self._place, self.number) == (other._place, other.number)

    def __hash__(self) -> int:
        return hash((self._place, self.number))

    def __repr__(self) -> str:
        return f"<Version {self.number} of {self._place.root}>"
