"""Where a directory's versions come from: the mount that it is in, or the watched directory."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

from ckptfs.client.watched import gone
from ckptfs.errors import CkptfsError, InvalidInputError, MountError
from ckptfs.mount_table import mount_at
from ckptfs.watch_table import is_alive, watch_at

STATUS = ".status"
_GONE = (errno.ENOTCONN, errno.ECONNABORTED)
# a watch writes it every 2 s
_STALE_S = 10.0


class Place:
    """The mount, or the watched directory, that a directory is in.

    Attributes:
        root: Its uppermost directory, which has the control files.
        below: The directory's path below the root; `.` for the root itself.
        is_watched: True for a watched directory (`ckptfs watch`): it answers when it has noticed.
    """

    def __init__(self, root: Path, below: Path, *, is_watched: bool = False) -> None:
        self.root = root
        self.below = below
        self.is_watched = is_watched

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    @property
    def directory(self) -> Path:
        """The directory that was asked for."""
        return self.root / self.below

    @property
    def is_root(self) -> bool:
        """True if the directory that was asked for is the uppermost one."""
        return self.below == Path(".")

    def status(self) -> dict[str, Any]:
        """Return what `.status` says. Raises MountError."""
        try:
            if self.is_watched and self._is_stale() and not is_alive(self.root):
                raise gone(self.root)
            return self.read(STATUS)
        except FileNotFoundError as error:
            raise self.explained(error, "read") from error

    def _is_stale(self) -> bool:
        return time.time() - (self.root / STATUS).stat().st_mtime > _STALE_S

    def read(self, name: str) -> dict[str, Any]:
        """Return the JSON object that a control file gives.

        Raises:
            MountError: Nobody serves it.
            FileNotFoundError: There is no such file.
        """
        path = self.root / name
        try:
            return _object(path.read_bytes(), path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.explained(error, "read") from error

    def unanswered(self, status: dict[str, Any]) -> MountError | None:
        """Return why nothing can be told of older versions, if that is the store's not answering."""
        if why := status.get("error"):
            return MountError(f"cannot read the versions of {self.root}: {why}", hint="ask when the store answers")
        return None

    def explained(self, error: OSError, doing: str) -> CkptfsError:
        """Return what an error of the operating system means for who asked, if it means that nobody serves."""
        if error.errno in _GONE:
            return MountError(
                f"the process of the mount at {self.root} is gone",
                hint=f"`ckptfs umount {self.root}` clears it away, then mount again; what was captured is kept",
            )
        if error.errno == errno.ENOENT and not self.is_watched and mount_at(self.root) is None:
            return MountError(f"nothing is mounted at {self.root} any more", hint=f"`ckptfs mount STORE {self.root}`")
        return MountError(f"cannot {doing} {error.filename or self.root}: {error.strerror}")


def find_place(directory: Path) -> Place:
    """Return the place of a directory, which need not exist yet.

    Raises:
        InvalidInputError: It is in no mount, and not watched.
    """
    directory = Path(os.path.abspath(directory))
    mount = mount_at(directory)
    watched = watch_at(directory) if mount is None else None
    if watched is not None:
        return Place(watched.directory, _below(directory, watched.directory), is_watched=True)
    if mount is None:
        raise InvalidInputError(
            f"{directory} is not in a ckptfs mount",
            hint=f"`ckptfs mount STORE {directory}`; `ckptfs status` lists the mounts of this machine",
        )
    return Place(mount.mountpoint, _below(directory, mount.mountpoint))


def _below(directory: Path, root: Path) -> Path:
    return directory.relative_to(root) if directory.is_relative_to(root) else directory.resolve().relative_to(root)


def _object(text: bytes, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise MountError(f"{path} holds no JSON object: {error}") from error
