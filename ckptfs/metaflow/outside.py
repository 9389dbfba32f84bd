"""`Checkpoint`: for programs that a step starts, and for notebooks and scripts outside flows."""

import os
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ckptfs.errors import InvalidInputError
from ckptfs.metaflow import command, lineage
from ckptfs.metaflow.reference import DEFAULT_NAME, DIRECTORY, Reference, chosen, parse
from ckptfs.metaflow.scope import scope_of_environment
from ckptfs.metaflow.task import TaskCheckpoint


class Checkpoint:
    """Saves, lists and loads in a program that a step started; outside flows, lists and loads what tasks have saved.

        Checkpoint().save(metadata={"step": 100})                       # in a program that the step started
        Checkpoint().list(task="Flow/12/train/40")                      # anywhere
        with Checkpoint() as checkpoint:
            checkpoint.load(reference)      # into checkpoint.directory, which is removed at the end

    Args:
        temp_dir_root: Where `directory` is made outside of a step.
        init_dir: Make it at once, and not only in a `with`.
    """

    def __init__(self, temp_dir_root: str | None = None, init_dir: bool = False) -> None:
        scope = scope_of_environment()
        self._task = TaskCheckpoint(scope) if scope is not None else None
        self._root = temp_dir_root
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if init_dir:
            self._make_directory()

    @property
    def directory(self) -> str | None:
        """Where `load` writes: that of the step, or a temporary one; None outside of both."""
        if self._temporary is not None:
            return self._temporary.name
        return self._task.directory if self._task is not None else None

    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        latest: bool = True,
        name: str = DEFAULT_NAME,
        storage_format: str = "files",
    ) -> Reference:
        """Save as `current.checkpoint.save` does.

        Raises:
            InvalidInputError: No step has started this program.
        """
        if self._task is None:
            raise InvalidInputError(
                "no step with @checkpoint has started this program", hint="give it the step's environment"
            )
        if path is None and self._temporary is not None:
            path = self._temporary.name
        return self._task.save(path, name, metadata, latest, storage_format)

    def list(
        self,
        name: str | None = None,
        task: Any = None,
        attempt: int | str | None = None,
        full_namespace: bool = False,
    ) -> list[Reference]:
        """Return the references of a task's versions, newest first; without a task, of the one that this is part of.

        Args:
            name: Those of a name alone.
            task: A Task or a pathspec, flow/run/step/task.
            attempt: Those of an attempt alone.
            full_namespace: After them those of the task that has its place in other runs of the namespace.

        Raises:
            InvalidInputError: No task was given, and this is part of none.
        """
        if self._task is not None:
            return self._task.list(name, task, attempt, full_namespace)
        if task is None:
            raise InvalidInputError("no task was given, and no step has started this program")
        found = lineage.of_store(lineage.store_of(task))
        return chosen(chain(found, lineage.elsewhere(task)) if full_namespace else found, name, attempt)

    def load(self, reference: Mapping[str, Any] | str, path: str | None = None) -> None:
        """Write what a version has into a directory.

        Raises:
            InvalidInputError: There is no directory, or it is no reference.
        """
        target = path or self.directory
        if target is None:
            raise InvalidInputError("no path was given", hint="or use it as `with Checkpoint() as checkpoint`")
        if self._task is not None and target == self._task.directory:
            self._task.load(reference)
            return
        wanted = parse(reference, "")
        command.fetch(wanted.store, wanted.number, wanted.directory or DIRECTORY, Path(target))

    def __enter__(self) -> Self:
        self._make_directory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _make_directory(self) -> None:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ckptfs-", dir=self._root)
