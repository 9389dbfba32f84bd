"""Touching the marker of a watched directory (`ckptfs watch`), and waiting for the answer.

A watch notices a touch after it has returned, so what it made of it stands in `.save.status` some time later: an answer
whose `touched_ns` is not earlier than the ctime of the touch, and whose number is higher than the last one before it
(docs/WATCH.md).
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptfs.client.marker import NAME
from ckptfs.errors import MountError
from ckptfs.watch_table import STATUS, is_alive, read_object

ANSWERS = ".save.status"
RESTORE = ".restore"

_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.1
_ALIVE_LOOK_S = 0.5


def touch(root: Path, text: bytes, *, sync: bool = False) -> dict[str, Any]:
    """Touch a watched directory's marker; return what is said of the version that this made.

    That is what reading `.save` in a mount says, and `torn`: how many files may hold a mixture of moments.

    Args:
        sync: Return when it is durable, or when a mount would wait no longer (`--sync-timeout`: EIO).

    Raises:
        OSError: Nothing was captured; or, with `sync`, it is not durable.
        MountError: Nobody watches any more.
    """
    before = _document(root)
    last = before["answers"][-1]["number"] if before["answers"] else 0
    touched_ns = _write(root / NAME, text)

    def answer() -> dict[str, Any] | None:
        document = _document(root)
        if document["epoch"] != before["epoch"]:
            raise MountError(f"the watch of {root} was started anew while it was touched", hint="save once more")
        answers = (each for each in document["answers"] if each["number"] > last and each["touched_ns"] >= touched_ns)
        return next(answers, None)

    found = _wait(root, answer)
    if found["version"] is None:
        raise OSError(found["errno"], found["error"])
    if sync:
        _wait_durable(root, found["version"])
    return {**_version(root, found["version"]), "torn": found["torn"]}


def restore(root: Path, spec: str) -> None:
    """Make a watched directory a version.

    Raises:
        OSError: There is no such version, or it cannot be had.
        MountError: Nobody watches any more.
    """
    touched_ns = _write(root / RESTORE, f"{spec}\n".encode())

    def answer() -> dict[str, Any] | None:
        said: dict[str, Any] | None = _read(root, STATUS)["restore"]
        return said if said is not None and said["touched_ns"] >= touched_ns else None

    found = _wait(root, answer)
    if found["error"] is not None:
        raise OSError(found["errno"], found["error"])


def gone(root: Path) -> MountError:
    """Return what is said where nobody watches."""
    return MountError(
        f"nobody watches {root} any more",
        hint="start `ckptfs watch` again; what was captured is kept in its cache directory",
    )


def without_versions(root: Path) -> MountError:
    """Return why older versions cannot be looked at."""
    return MountError(
        f"{root} is an ordinary directory that is watched: it shows no old versions",
        hint=f"`ckptfs log {root}` lists them; load one, or `ckptfs restore STORE TARGET --version V`",
    )


def _write(path: Path, text: bytes) -> int:
    """Write to a control file, or set its times; return the ctime of that."""
    # no O_CREAT: where it is not there nobody watches. O_TRUNC: what stands there is not part of the text
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_TRUNC if text else 0))
    try:
        if text:
            os.write(fd, text)
        else:
            os.utime(fd)
        return os.fstat(fd).st_ctime_ns
    finally:
        os.close(fd)


def _wait(root: Path, look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """Look until there is something; raise MountError when nobody is left to make it."""
    pause_s, alive_s = _FIRST_LOOK_S, time.monotonic()
    while (found := look()) is None:
        if time.monotonic() - alive_s > _ALIVE_LOOK_S:
            alive_s = time.monotonic()
            if not is_alive(root):
                raise gone(root)
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LAST_LOOK_S)
    return found


def _wait_durable(root: Path, version: int) -> None:
    timeout_s = float(_read(root, STATUS)["sync_timeout_s"])
    advanced, deadline_s = _advance(root), time.monotonic() + timeout_s

    def settled() -> dict[str, Any] | None:
        nonlocal advanced, deadline_s
        document = _document(root)
        failed = document["failed"]
        why = document["fenced"] or (failed["error"] if failed and failed["version"] <= version else None)
        if document["durable"] >= version:
            return document
        if not why and time.monotonic() > deadline_s and (now := _advance(root)) > advanced:
            advanced, deadline_s = now, time.monotonic() + timeout_s
        if why or time.monotonic() > deadline_s:
            raise OSError(errno.EIO, why or document["error"] or "the store has not taken it in time")
        return None

    _wait(root, settled)


def _advance(root: Path) -> tuple[int, int]:
    """Return how far the store is: all up to which version, and how much of the next. It only grows."""
    pending = _read(root, STATUS)["pending"]
    return (pending[0]["version"], pending[0]["bytes_uploaded"]) if pending else (sys.maxsize, 0)


def _version(root: Path, version: int) -> dict[str, Any]:
    status = _read(root, STATUS)
    known = [*status["pending"], *([status["newest"]] if status["newest"] else [])]
    for each in known:
        if each["version"] == version:
            return dict(each)
    # another came after it, and it is durable
    return {
        "version": version,
        "state": "durable",
        "note": None,
        "error": None,
        "files": None,
        "bytes": None,
        "bytes_uploaded": None,
    }


def _document(root: Path) -> dict[str, Any]:
    return _read(root, ANSWERS)


def _read(root: Path, name: str) -> dict[str, Any]:
    found = read_object(root / name)
    if found is None:
        raise gone(root)
    return found
