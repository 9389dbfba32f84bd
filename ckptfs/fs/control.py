"""The reserved names: which they are, what reading them gives, and what `.restore` understands.

They are looked up by name, and are listed nowhere (PRODUCT.md 1).
"""

import json
import re
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from ckptfs.fs.uploads import Uploads
from ckptfs.fs.version_state import VersionState


class Control(Enum):
    """A reserved name."""

    SAVE = b".save"
    """In every directory."""
    STATUS = b".status"
    RESTORE = b".restore"
    VERSIONS = b".versions"


_IN_ROOT = {control.value: control for control in Control}
# asked several times in every operation; an enum member's value takes 20 times as long to get as a global
_SAVE, _VERSIONS = Control.SAVE.value, Control.VERSIONS.value
_BELOW_VERSIONS = _VERSIONS + b"/"


_RESTORE_TEXT = re.compile(rb"[0-9]+ \n")
# `041` is no name of version 41
_MARKER_OF_VERSION = re.compile(rb"\.versions/([1-9][0-9]{0,18})/\.save")


def control_of(path: bytes) -> Control | None:
    """Return what reserved name a path is (not below `.versions`), None if it is none."""
    if path.endswith(_SAVE) and path[-len(_SAVE) - 1 : -len(_SAVE)] in (b"", b"/"):
        return None if path.startswith(_BELOW_VERSIONS) else Control.SAVE
    return _IN_ROOT.get(path)


def version_of_marker(path: bytes) -> int | None:
    """Return the version whose `.versions/41/.save` a path is, None if it is no such name."""
    match = _MARKER_OF_VERSION.fullmatch(path) if path.endswith(_SAVE) else None
    return int(match[1]) if match else None


def below_versions(path: bytes) -> bytes | None:
    """Return the path within `.versions`, b"" for itself, None if it is elsewhere."""
    if not path.startswith(_VERSIONS):
        return None
    if path == _VERSIONS:
        return b""
    return path[len(_BELOW_VERSIONS) :] if path.startswith(_BELOW_VERSIONS) else None


def save_text(state: VersionState | None) -> bytes:
    """Return what reading `.save` gives: one JSON object about the newest version of the mount."""
    return _line(version_object(state or VersionState(0, "none")))


def restore_text(version: int) -> bytes:
    """Return what reading `.restore` of a watched directory gives: the number of its newest version.

    With a space that nobody writes: a program that writes this very number asks for something.
    """
    return b"%d \n" % version


def asks_for_nothing(text: bytes) -> bool:
    """True of a text of `.restore` that is what a watch shows there: it came with a directory that was copied."""
    return _RESTORE_TEXT.fullmatch(text) is not None


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


def uploads_object(uploads: Uploads, blocked_since: float | None) -> dict[str, Any]:
    """Return the fields of `.status` that say what goes to the store, and what waits.

    Args:
        blocked_since: Wall clock time since when a save waits for room, None when none does.
    """
    newest, waiting = uploads.newest(), uploads.waiting()
    return {
        "fenced": uploads.fenced,
        "version": newest.version if newest is not None else 0,
        "newest": version_object(newest) if newest is not None else None,
        "pending": [version_object(state) for state in waiting],
        "pending_bytes": sum(state.kept_bytes for state in waiting),
        "regime": uploads.regime,
        "blocked_s": round(time.time() - blocked_since, 1) if blocked_since is not None else None,
        "error": uploads.fenced or uploads.retry_error,
    }


def status_text(fields: Callable[[], dict[str, Any]]) -> bytes:
    """Return what reading `.status` gives."""
    return _line({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **fields()})


def _line(value: dict[str, Any]) -> bytes:
    # a name that is no UTF-8 is shown as os.fsdecode has it: with lone surrogates, which JSON writes as escapes
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
