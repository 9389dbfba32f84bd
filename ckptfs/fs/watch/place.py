"""The directory itself: opening it, keeping others out, what a watch before left, and whether it is still there."""

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from ckptfs.errors import InvalidInputError, MountError
from ckptfs.fs.marker import NOTE_LIMIT_BYTES
from ckptfs.fs.watch.marker_file import is_signed
from ckptfs.fs.watch.names import ANSWERS, SAVE, STATUS
from ckptfs.mount_table import mount_at, mounts
from ckptfs.watch_table import read_object, watches

_LOCK_TIMEOUT_S = 1.0
_LOCK_LOOK_S = 0.02
# who exchanges directories takes some ms for it; a program that writes into another than ours should not do so for long
_AWAY_S = 1.0


def open_directory(directory: Path) -> int:
    """Open the directory and keep others from watching it.

    Raises:
        InvalidInputError: It is in a mount.
        MountError: It is no directory, or is watched already.
    """
    inside = mount_at(directory)
    if inside is not None:
        raise InvalidInputError(
            f"{directory} is in the mount at {inside.mountpoint}", hint=f"touch {inside.mountpoint}/.save there"
        )
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MountError(f"{directory} does not exist", hint=f"make it first: mkdir -p {directory}") from error
    except NotADirectoryError as error:
        raise MountError(f"{directory} is not a directory") from error
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError as error:
            # who asks whether it is watched holds it for microseconds
            if time.monotonic() > deadline_s:
                os.close(fd)
                raise MountError(
                    f"{directory} is watched already", hint=f"`ckptfs status {directory}` tells by what"
                ) from error
            time.sleep(_LOCK_LOOK_S)
        except OSError:
            return fd  # a network filesystem without locks


def is_shown(url: str) -> bool:
    """True if a store is mounted or watched on this machine, as far as can be seen."""
    return any(mount.store == url for mount in mounts()) or any(watch.store == url for watch in watches())


def remove_status(root_fd: int) -> None:
    """Take away the `.status` of a watch that was killed."""
    with suppress(FileNotFoundError):
        os.unlink(STATUS, dir_fd=root_fd)


def watched_in_epoch(root_fd: int) -> int | None:
    """Return the epoch of the watch that last told something in the directory, None if none did."""
    said = read_object(Path(f"/proc/self/fd/{root_fd}") / os.fsdecode(ANSWERS))
    epoch = said.get("epoch") if said is not None else None
    return epoch if isinstance(epoch, int) else None


def was_touched_meanwhile(root_fd: int) -> bool:
    """True if `.save` was touched since a watch that was killed wrote its last `.save.status`."""
    try:
        marker = os.stat(SAVE, dir_fd=root_fd, follow_symlinks=False)
        answers = os.stat(ANSWERS, dir_fd=root_fd, follow_symlinks=False)
        fd = os.open(SAVE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root_fd)
    except OSError:
        return False
    try:
        said = json.loads(os.pread(fd, 8 * NOTE_LIMIT_BYTES, 0))
        is_ours = isinstance(said, dict) and "bytes_uploaded" in said
    except ValueError:
        is_ours = False
    finally:
        os.close(fd)
    return not is_ours or (not is_signed(marker) and marker.st_mtime_ns > answers.st_mtime_ns)


class Whereabouts:
    """Whether a path still leads to the directory that is watched: nobody touches a marker in one that is gone.

    Args:
        directory: The path.
        fd: Of what it led to.
    """

    def __init__(self, directory: Path, fd: int) -> None:
        self._directory = directory
        self._ours = _identity(os.fstat(fd))
        self._away_since_s: float | None = None

    def is_away(self) -> bool:
        """True if it leads to none, or to another, at this moment."""
        try:
            is_there = _identity(os.stat(self._directory)) == self._ours
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        except OSError:
            is_there = True  # nobody can tell
        if is_there:
            self._away_since_s = None
        elif self._away_since_s is None:
            self._away_since_s = time.monotonic()
        return not is_there

    def is_lost(self) -> bool:
        """True if it has been away for longer than exchanging takes."""
        return self._away_since_s is not None and time.monotonic() - self._away_since_s > _AWAY_S


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
