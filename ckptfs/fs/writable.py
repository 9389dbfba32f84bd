"""What a read-write mount has and a read-only one has not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ckptfs.fs.live.names import LiveNames
from ckptfs.fs.live.open_files import OpenFiles
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.marker import SaveMarker
from ckptfs.fs.version_state import VersionState


class Restorer(Protocol):
    """What `.restore` needs of the mount."""

    def check(self, spec: str) -> None:
        """Raise NoSuchVersionError or InvalidInputError if a version cannot be restored."""

    def restore(self, spec: str) -> None:
        """Make the live tree a version."""


@dataclass(slots=True, kw_only=True)
class Writable:
    """The parts of one that operations use."""

    live: LiveTree
    names: LiveNames
    open_files: OpenFiles
    marker: SaveMarker
    restorer: Restorer
    check_save_allowed: Callable[[], None]
    version: Callable[[], int]
    """Returns the number of the newest captured version."""
    state_of: Callable[[int], VersionState | None]
    """Returns what has become of a version that was captured a moment ago."""
    looked_at: Callable[[], None]
    """A program opened a file that tells what has become of the versions."""
