"""The reserved names: which they are, what reading them gives, and what `.restore` understands.

They are looked up by name, and are listed nowhere (PRODUCT.md 1).
"""

import json
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from ckptfs.fs.uploads import VersionState


class Control(Enum):
    """A reserved name."""

    SAVE = b".save"
    """In every directory."""
    STATUS = b".status"
    RESTORE = b".restore"
    VERSIONS = b".versions"


_IN_ROOT = {control.value: control for control in Control}


def control_of(path: bytes) -> Control | None:
    """Return what reserved name a path is (not below `.versions`), None if it is none."""
    if path in _IN_ROOT:
        return _IN_ROOT[path]
    return Control.SAVE if path.rpartition(b"/")[2] == Control.SAVE.value else None


def below_versions(path: bytes) -> bytes | None:
    """Return the path within `.versions`, b"" for itself, None if it is elsewhere."""
    name, _, below = path.partition(b"/")
    return below if name == Control.VERSIONS.value else None


def save_text(state: VersionState | None) -> bytes:
    """Return what reading `.save` gives: one JSON object about the newest version of the mount."""
    return _line(version_object(state or VersionState(0, "none")))


def version_object(state: VersionState) -> dict[str, Any]:
    """Return the public fields of a version's state."""
    return {
        "version": state.version,
        "state": state.state if state.version else None,
        "note": state.note,
        "error": state.error,
        "files": state.files,
        "bytes": state.bytes,
        "bytes_uploaded": state.bytes_uploaded,
    }


def status_text(fields: Callable[[], dict[str, Any]]) -> bytes:
    """Return what reading `.status` gives."""
    return _line({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **fields()})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
