"""A directory whose versions are saved and loaded."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptfs.client import marker, watched
from ckptfs.client.place import find_place
from ckptfs.client.rank import Rank, current_rank
from ckptfs.client.version import SKIPPED, Version
from ckptfs.errors import CkptfsError, FencedError, InvalidInputError, MountError, NoSuchVersionError, ReadOnlyError

LATEST = "latest"
RANKS = ("all", "zero")


def checkpoint(directory: str | os.PathLike[str] | None = None, *, ranks: str | None = None) -> "Checkpoint":
    """Return the Checkpoint of a directory in a mount.

    Args:
        directory: Made if it is missing; None takes $CKPTFS_DIR.
        ranks: Which ranks of a distributed job save: `all` or `zero`. None takes $CKPTFS_RANKS, else `all`.

    Raises:
        InvalidInputError: None was given, it is in no mount, or it cannot be made.
        MountError: Nobody serves the mount.
    """
    given = directory if directory is not None else os.environ.get("CKPTFS_DIR")
    if not given:
        raise InvalidInputError(
            "no directory was given, and $CKPTFS_DIR is not set", hint="name a directory of a mount"
        )
    return Checkpoint(Path(given), ranks=ranks or os.environ.get("CKPTFS_RANKS") or RANKS[0])


class Checkpoint:
    """Saves and loads versions of the mount that a directory is in.

    Attributes:
        directory: Where a program reads and writes its files.
        is_loaded: True if there was a version to go on from when this object was made, or one was loaded since.
        chosen: The version that was last asked for with `load`, until the next save; `latest` if none was. What goes
            on from a Checkpoint, as the callbacks do, goes on from this one.
    """

    def __init__(self, directory: Path, *, ranks: str) -> None:
        if ranks not in RANKS:
            raise InvalidInputError(f"ranks is {ranks!r}, expected one of {', '.join(RANKS)}")
        self._ranks = ranks
        self._place = find_place(directory)
        self.directory = self._place.directory
        self.is_loaded = self.has_version
        self.chosen: int | str = LATEST
        if not self.directory.is_dir() and not self._place.status().get("read_only"):
            self._make_directory()

    @property
    def latest(self) -> Version | None:
        """The newest version that was captured, by whomever; None if there is none yet."""
        number = self._place.status()["version"]
        return Version(self._place, number) if number else None

    @property
    def has_version(self) -> bool:
        """True if the newest version has something in the directory.

        A version that is not durable yet, or is one of a watched directory, cannot be looked into: it is taken to have
        what is there.
        """
        status = self._place.status()
        number = status["version"]
        if not number or not self.directory.is_dir():
            return False
        if (
            self._place.is_root
            or self._place.is_watched
            or any(each["version"] == number for each in status["pending"])
        ):
            return True
        path = Version(self._place, number).path
        return path.is_dir() and any(path.iterdir())

    @property
    def is_saver(self) -> bool:
        """True if `save` saves in this process: of the ranks of a job, with `ranks="zero"`, it does in the first."""
        return self._ranks == "all" or current_rank().rank == 0

    def save(
        self,
        note: marker.Note = None,
        path: str | os.PathLike[str] | None = None,
        wait: bool = False,
        *,
        barrier: bool = False,
        barrier_timeout_s: float | None = None,
    ) -> Version:
        """Capture the whole mount as one version, and return it at once; it is uploaded in the background.

        Args:
            note: What is said of it: a dict (step, metrics) or a message.
            path: A file or directory from elsewhere that is copied into the directory first, under its own name.
            wait: Return only when the version is durable in the store.
            barrier: Wait until all ranks on this machine have come here, so that what each has written is in the one
                version that all return. Every one of them must call it.
            barrier_timeout_s: How long to wait for them at most; None waits half an hour.

        Returns:
            The version that this call made. Where `ranks` is `zero` and this is another rank, nothing is saved, and
            its state is `skipped`.

        Raises:
            ReadOnlyError: The mount is read-only, or another writer took the store over.
            CacheError: The cache directory's disk is full.
            NotDurableError: With `wait`, it could not be made durable; an earlier version never will be.
            NoteTooLargeError: The note is over 64 KiB.
            BarrierError: With `barrier`, not all ranks came.
            InvalidInputError: The note or the path is none.
        """
        text = marker.encode_note(note)
        rank, is_mine = current_rank(), self.is_saver
        if path is not None and (is_mine or barrier):
            from ckptfs.client.incoming import bring

            self._make_directory()  # a program may have removed it
            try:
                bring(path, self.directory, self._place.root)
            except OSError as error:
                raise marker.explained(error, self._place.root) or error from error
        number, said = 0, None
        if barrier:
            number = self._together(rank, lambda: int(self._touch(text)["version"]), barrier_timeout_s)
        elif is_mine:
            said = self._touch(text)
            number = int(said["version"])
        if not number:
            _say_skipped(rank.rank)
        self.chosen = LATEST
        version = Version(self._place, number, said)
        return version.wait() if wait else version

    def list(self) -> list[Version]:
        """Return all versions, newest first, those included that are not durable yet. Not where it is watched.

        Raises:
            MountError: Nobody serves the mount, or the store does not answer.
        """
        if self._place.is_watched:
            raise watched.without_versions(self._place.root)
        status = self._place.status()
        numbers = {each["version"] for each in status["pending"]}
        try:
            numbers |= {int(name) for name in os.listdir(self._place.root / ".versions") if name.isdigit()}
        except OSError as error:
            raise self._place.unanswered(status) or self._place.explained(error, "list") from error
        return [Version(self._place, number) for number in sorted(numbers, reverse=True)]

    def load(self, version: Version | int | str = LATEST) -> Path:
        """Make the directory, and all the rest of the mount, what it is in a version; return the directory.

        History is not rewritten: a later save makes a new version. What was not saved is set aside, where
        `ckptfs recover` finds it. The newest version costs nothing to load where nothing has changed since. To look
        at a version without loading it, read `Version.path`.

        Args:
            version: A Version, its number, a tag, or `latest`.

        Raises:
            NoSuchVersionError: There is none.
            InvalidInputError: It is none of these.
            ReadOnlyError: The mount is read-only.
            FencedError: Another writer took the store over.
        """
        wanted = self._number(version) if isinstance(version, Version) else _asked(version)
        status = self._place.status()
        if not status["version"]:
            raise NoSuchVersionError(f"{self._place.root} has no version yet", hint="save one first")
        # captured, if not durable yet
        number = status["version"] if wanted == LATEST else wanted
        if not (number == status["version"] and status.get("changed_paths", 0) == 0):
            self._restore(str(number))
        self.is_loaded, self.chosen = True, wanted
        self._make_directory()
        return self.directory

    def info(self) -> dict[str, Any]:
        """Return the state of the mount, as reading `.status` gives it."""
        return self._place.status()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.directory}>"

    def _number(self, version: Version) -> int:
        if not version.number:
            raise NoSuchVersionError("a version that was skipped cannot be loaded", hint="another rank saves for all")
        if not version.is_of(self._place):
            raise InvalidInputError(f"{version!r} is no version of {self._place.root}")
        return version.number

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInputError(f"cannot make {self.directory} a directory: {error.strerror}") from error

    def _together(self, rank: Rank, save: Callable[[], int], timeout_s: float | None) -> int:
        """Meet the other ranks of this machine, of which the first saves for all; return 0 if it does not."""
        from ckptfs.client.barrier import is_read_only, together

        try:
            if not self.is_saver and is_read_only(self._place.root):
                return 0  # of another machine than the first rank's: there is nothing to wait for
            return together(self._place.root, rank, save if self.is_saver else lambda: 0, timeout_s)
        except OSError as error:
            error.filename = None  # a name below /proc
            raise marker.explained(error, self._place.root) or self._place.explained(error, "save at") from error

    def _touch(self, text: bytes) -> dict[str, Any]:
        try:
            if self._place.is_watched:
                return watched.touch(self._place.root, text)
            try:
                return marker.touch(self.directory, text)
            except (FileNotFoundError, NotADirectoryError):
                # a program has removed the directory: a version of the whole mount can be without it
                return marker.touch(self._place.root, text)
        except OSError as error:
            raise marker.explained(error, self._place.root) or self._not_saved(error) from error

    def _not_saved(self, error: OSError) -> CkptfsError:
        if error.errno == errno.EIO:
            why = self._place.status().get("error")
            return MountError(f"nothing was saved at {self._place.root}" + (f": {why}" if why else ""))
        return self._place.explained(error, "save")

    def _restore(self, spec: str) -> None:
        path = self._place.root / ".restore"
        try:
            if self._place.is_watched:
                watched.restore(self._place.root, spec)
                return
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, f"{spec}\n".encode())
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # here it is restored
        except OSError as error:
            raise self._not_restored(error, spec) from error

    def _not_restored(self, error: OSError, spec: str) -> CkptfsError:
        status = self._place.status() if error.errno in (errno.ENOENT, errno.EIO) else {}
        if status.get("fenced"):
            return FencedError(f"version {spec} cannot be loaded at {self._place.root}: {status['fenced']}")
        if why := status.get("error"):
            return MountError(
                f"version {spec} cannot be loaded at {self._place.root}: {why}",
                hint="load it when the store answers; what is there is as it was",
            )
        if error.errno == errno.ENOENT:
            return NoSuchVersionError(f"{self._place.root} has no version {spec}")
        if error.errno == errno.EINVAL:
            return _no_version(spec)
        if error.errno in (errno.EROFS, errno.EACCES):
            return ReadOnlyError(
                f"no version can be loaded at {self._place.root}: it is read-only",
                hint="read the files of a version in .versions/, or mount with --version",
            )
        error.filename = error.filename or os.fspath(self._place.root)
        return self._place.explained(error, "load a version at")


def _asked(version: int | str) -> int | str:
    """Return the version that is asked for. Raises InvalidInputError for nothing but blanks.

    `.restore` takes blanks for no question, and what reading it gives, a number and a space, too: a mount would change
    nothing, and a watch not even answer.
    """
    if isinstance(version, int):
        return version
    spec = str(version).replace("\0", " ").strip()
    if not spec:
        raise _no_version(str(version))
    return spec


def _no_version(spec: str) -> InvalidInputError:
    return InvalidInputError(f"{spec!r} is neither a version number, nor a tag, nor {LATEST!r}")


def _say_skipped(rank: int) -> None:
    """Say once in a process that this rank does not save."""
    import logging

    log = logging.getLogger("ckptfs")
    if _said_by.get(os.getpid()) is None:
        _said_by[os.getpid()] = rank
        log.warning("%s save: rank=%d is not 0, and only that one saves (ranks=zero)", SKIPPED, rank)


_said_by: dict[int, int] = {}
"""Process to its rank."""
