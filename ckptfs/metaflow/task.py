"""The checkpoints of one task: saved into its mount, listed and loaded from it, and loaded from others' stores.

A mount holds two directories: `checkpoint` is the one that the step writes, `saved` takes the place of what
`save(path=...)` was given from elsewhere. A version's note says which of them is meant.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import ckptfs
from ckptfs.client import Version, marker
from ckptfs.errors import InvalidInputError
from ckptfs.metaflow import command, lineage
from ckptfs.metaflow.elsewhere import brought
from ckptfs.metaflow.reference import (
    DEFAULT_NAME,
    DIRECTORY,
    SAVED,
    Loaded,
    Reference,
    chosen,
    now,
    of_version,
    parse,
    reference,
)
from ckptfs.metaflow.scope import Scope

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
        self._loaded: Loaded | None = None
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
    def info(self) -> Loaded | None:
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
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidInputError(f"metadata is {metadata!r:.200}, expected a dict")
        is_own = path is None or self._is_own(path)
        note = {
            "name": name,
            "metadata": dict(metadata or {}),
            "latest": latest,
            "directory": DIRECTORY if is_own else SAVED,
            "pathspec": self.scope.pathspec,
            "attempt": self.scope.attempt,
            "created_on": now(),
        }
        note = json.loads(marker.encode_note(note))  # as others will read it
        with nullcontext() if path is None or is_own else brought(path, self.scope):
            version = self._mount.save(note)
        if version.said is None:
            return reference(self.scope.store, version.number, note)  # of a rank that does not save
        # a watch says no more of a version that another has followed
        self._known[version.number] = of_version(self.scope.store, {**version.said, "note": note})
        return self._known[version.number]

    def list(
        self,
        name: str | None = None,
        task: Any = None,
        attempt: int | str | None = None,
        full_namespace: bool = False,
    ) -> list[Reference]:
        """Return the references of a task's versions, newest first, those of all attempts unless one is given.

        Args:
            name: Those of a name alone.
            task: A Task or a pathspec, flow/run/step/task; None is this one.
            attempt: Those of an attempt alone.
            full_namespace: After them those of the task that has its place in other runs of the namespace.
        """
        is_own = task is None or getattr(task, "pathspec", task) == self.scope.pathspec
        found = self.references() if is_own else lineage.of_store(lineage.store_of(task))
        if full_namespace:
            found = chain(found, lineage.elsewhere(task or self.scope.pathspec))
        return chosen(found, name, attempt)

    def references(self) -> Iterator[Reference]:
        """Yield the references of this task's versions, newest first."""
        for number, info in self._versions():
            if number not in self._known:
                self._known[number] = of_version(self.scope.store, info())
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
        self._loaded = Loaded(found)

    def newest(self) -> Reference | None:
        """Return the reference of the newest version of this task that is to be loaded."""
        return next((each for each in self.references() if each["latest"]), None)

    def refresh_directory(self) -> None:
        """Empty the directory."""
        self._directory.mkdir(exist_ok=True)
        for path in self._directory.iterdir():
            command.remove(path)

    def wait(self, timeout_s: float) -> None:
        """Return when all versions are durable. Raises NotDurableError, MountError."""
        if self._mount.latest is not None:
            self._mount.latest.wait(timeout_s)

    def _below(self, store: str, number: int) -> str:
        found = (of_version(store, each) for each in command.versions(store) if each["version"] == number)
        return next((str(each["directory"]) for each in found), DIRECTORY)

    def _load(self, store: str, number: int, below: str) -> None:
        if store != self.scope.store:
            self.refresh_directory()
            command.fetch(store, number, below, self._directory)
            return
        self._mount.load(number)
        if below == SAVED:
            command.remove(self._directory)
            os.rename(self.scope.mountpoint / SAVED, self._directory)
        self._directory.mkdir(exist_ok=True)

    def _is_own(self, path: str | os.PathLike[str]) -> bool:
        return os.path.realpath(path) == os.path.realpath(self._directory)
