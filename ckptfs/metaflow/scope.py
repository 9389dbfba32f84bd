"""Whose versions: the store of a task, and where it is on this machine."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ckptfs.errors import InvalidInputError

ENVIRONMENT = "CKPTFS_METAFLOW"
"""What programs that a task starts learn of it."""


class Scope(NamedTuple):
    """One attempt of a task."""

    store: str
    """The address of the task's store (F1)."""
    pathspec: str
    """flow/run/step/task."""
    attempt: int
    directory: str
    """Where it is mounted, and its cache kept."""

    @property
    def mountpoint(self) -> Path:
        """Where the store is mounted."""
        return Path(self.directory) / "mnt"

    @property
    def cache(self) -> Path:
        """The cache directory: one for each task, which the next attempt on the same machine finds again."""
        return Path(self.directory) / "cache"

    def export(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment for programs that the task starts: the first of their ranks saves."""
        return {
            ENVIRONMENT: json.dumps(self._asdict()),
            "CKPTFS_DIR": str(self.mountpoint / "checkpoint"),
            "CKPTFS_RANKS": environment.get("CKPTFS_RANKS", "zero"),
        }


def scope_of_environment() -> Scope | None:
    """Return the scope of the task that this program is part of, None if it is part of none."""
    text = os.environ.get(ENVIRONMENT)
    return Scope(**json.loads(text)) if text else None


def scope_of_task(root: str, user: str, pathspec: str, attempt: int, temporary: str | None) -> Scope:
    """Return the scope of an attempt of a task.

    Args:
        root: The address below which all stores are.
        user: Who runs the flow.
        pathspec: flow/run/step/task.
        attempt: From 0.
        temporary: The directory for mounts and caches; None takes $CKPTFS_METAFLOW_DIR, else one in /tmp.
    """
    flow, *rest = pathspec.split("/")
    store = "/".join([root.rstrip("/"), *(quote(part, safe="") for part in (flow, user, *rest))])
    above = temporary or os.environ.get("CKPTFS_METAFLOW_DIR")
    if not above:
        above = os.path.join(tempfile.gettempdir(), f"ckptfs-metaflow-{os.getuid()}")
    name = hashlib.sha256(store.encode()).hexdigest()[:16]
    return Scope(store, pathspec, attempt, os.path.join(os.path.abspath(above), name))


def store_root(given: str | None, datastore: Any) -> str:
    """Return the address below which all stores are.

    Args:
        given: By the decorator; else it is $CKPTFS_METAFLOW_STORE, else beside what Metaflow stores.
        datastore: Metaflow's, of the flow.

    Raises:
        InvalidInputError: Metaflow stores where ckptfs cannot.
    """
    root = given or os.environ.get("CKPTFS_METAFLOW_STORE")
    if root:
        return root
    beside = str(datastore.datastore_root)
    if datastore.TYPE == "s3":
        return f"{beside}/ckptfs"
    if datastore.TYPE == "local":
        return f"file://{quote(os.path.abspath(beside))}/ckptfs"
    raise InvalidInputError(
        f"Metaflow's datastore is {datastore.TYPE}, expected s3 or local",
        hint="@checkpoint(store=...), or $CKPTFS_METAFLOW_STORE, names another place: s3://BUCKET/PREFIX or file:///DIRECTORY",
    )
