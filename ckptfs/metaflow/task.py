"""The checkpoints of one task: saved into its mount, listed and loaded from it, and loaded from others' stores.

A mount holds two directories: `checkpoint` is the one that the step writes, `saved` takes the place of what
`save(path=...)` was given from elsewhere. A version's note says which of them is meant.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ckptfs
from ckptfs.client import Version, incoming
from ckptfs.errors import InvalidInputError
from ckptfs.metaflow import command
from ckptfs.metaflow.reference import DEFAULT_NAME, Reference, parse, reference
from ckptfs.metaflow.scope import Scope

DIRECTORY, SAVED = "checkpoint", "saved"

# as long as the end of a step waits, if it is not told otherwise
_LOAD_TIMEOUT_S = 300.0


class TaskCheckpoint:
    """What a task saves and loads.

    Args:
        scope: Whose store; it is mounted.
        ranks: As for ckptfs.checkpoint.
    """

    def __init__(self, scope: Scope, ranks: str | None = None) -> None:
        self.scope = scope
        self._mount = ckptfs.checkpoint(scope.mountpoint, ranks=ranks)
        self._directory = scope.mountpoint / DIRECTORY
        self._directory.mkdir(exist_ok=True)
        self._loaded: Reference | None = None
        self._known: dict[int, Reference] = {}
        """Versions whose notes need not be read any more."""

    @property
    def directory(self) -> str:
        """Where the step reads and writes."""
        return str(self._directory)

    @property
    def is_loaded(self) -> bool:
        """True if the directory began with a version."""
        return self._loaded is not None

    @property
    def info(self) -> Reference | None:
        """The reference of the version that the directory began with."""
        return self._loaded

    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        name: str = DEFAULT_NAME,
        metadata: Mapping[str, Any] | None = None,
        latest: bool = True,
        storage_format: str = "files",
    ) -> Reference:
        """Capture a version, and return its reference at once.

        Args:
            path: A file, or a directory whose content is meant, instead of the task's directory.
            name: Of the checkpoint; several may have the same.
            metadata: Kept in the version's note.
            latest: False if the next attempt is not to begin with it.
            storage_format: Of no effect: a version is not made of files or archives in the store.
        """
        if storage_format not in ("files", "tar"):
            raise InvalidInputError(f"storage_format is {storage_format!r}, expected files or tar")
        note = {
            "name": name,
            "metadata": dict(metadata or {}),
            "latest": latest,
            "directory": DIRECTORY if path is None else SAVED,
            "pathspec": self.scope.pathspec,
            "attempt": self.scope.attempt,
            "created_on": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
        }
        if path is not None and not self._is_own(path):
            self._take(path)
        elif path is not None:
            note["directory"] = DIRECTORY
        version = self._mount.save(note)
        saved = reference(self.scope.store, version.number, note)
        if version.number:
            self._known[version.number] = saved
        return saved

    def list(self, name: str | None = None, attempt: int | str | None = None) -> list[Reference]:
        """Return the references of this task's versions, newest first, those of all attempts unless one is given."""
        return [
            each
            for each in self.references()
            if (name is None or each["name"] == name) and (attempt is None or each["attempt"] == int(attempt))
        ]

    def references(self) -> Iterator[Reference]:
        """Yield the references of this task's versions, newest first."""
        for number, info in self._versions():
            if number not in self._known:
                found = info()
                if not isinstance(found["note"], dict) or "directory" not in found["note"]:
                    continue  # a touch by hand
                self._known[number] = reference(self.scope.store, number, found["note"], found["bytes"])
            yield self._known[number]

    def _versions(self) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
        """Yield number and fields of all versions, newest first."""
        status = self._mount.info()
        if status.get("kind") != "watch":
            for version in self._mount.list():
                yield version.number, version.info
            return
        # a watched directory does not show its versions: those that are durable are read from the store
        found = {each["version"]: each for each in command.versions(self.scope.store)}
        found |= {each["version"]: each for each in status["pending"]}
        for number in sorted(found, reverse=True):
            yield number, partial(dict, found[number])

    def load(self, given: Mapping[str, Any] | str | Version | int, path: str | None = None) -> None:
        """Make the directory, or another one, what a version has.

        Args:
            given: What `save` or `list` returned, its key, or a version's number of this task.
            path: Where to write it; None replaces the content of the task's directory.
        """
        wanted = parse(given, self.scope.store)
        if wanted.store == self.scope.store and self._mount.latest is not None:
            # versions become durable in their order
            self._mount.latest.wait(_LOAD_TIMEOUT_S)
        below = wanted.directory or self._below(wanted.store, wanted.number)
        if path is not None:
            command.fetch(wanted.store, wanted.number, below, Path(path))
        else:
            self._load(wanted.store, wanted.number, below)

    def begin_with(self, found: Reference) -> None:
        """Make the directory what a version has, before the step begins."""
        wanted = parse(found, self.scope.store)
        self._load(wanted.store, wanted.number, wanted.directory)
        self._loaded = found

    def newest(self) -> Reference | None:
        """Return the reference of the newest version of this task that is to be loaded."""
        return next((each for each in self.references() if each["latest"]), None)

    def refresh_directory(self) -> None:
        """Empty the directory."""
        self._directory.mkdir(exist_ok=True)
        for path in self._directory.iterdir():
            _remove(path)

    def wait(self, timeout_s: float) -> None:
        """Return when all versions are durable. Raises NotDurableError, MountError."""
        if self._mount.latest is not None:
            self._mount.latest.wait(timeout_s)

    def _below(self, store: str, number: int) -> str:
        found = (each["note"] for each in command.versions(store) if each["version"] == number)
        note = next(found, None)
        return str(note["directory"]) if isinstance(note, dict) else DIRECTORY

    def _load(self, store: str, number: int, below: str) -> None:
        if store != self.scope.store:
            self.refresh_directory()
            command.fetch(store, number, below, self._directory)
            return
        self._mount.load(number)
        if below == SAVED:
            _remove(self._directory)
            os.rename(self.scope.mountpoint / SAVED, self._directory)
        self._directory.mkdir(exist_ok=True)

    def _is_own(self, path: str | os.PathLike[str]) -> bool:
        return os.path.realpath(path) == os.path.realpath(self._directory)

    def _take(self, given: str | os.PathLike[str]) -> None:
        """Copy what is to be saved instead of the directory into its place."""
        source, root = incoming.existing(given), self.scope.mountpoint
        target, new = root / SAVED, root / f".{SAVED}"
        if os.path.lexists(new):
            _remove(new)  # of a program that was killed here
        try:
            if source.is_dir():
                incoming.copy(source, new, root)
            else:
                new.mkdir()
                incoming.copy(source, new / source.name, root)
            command.replace(new, target)
        except BaseException:
            if os.path.lexists(new):
                _remove(new)
            raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
