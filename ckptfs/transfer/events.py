"""What the upload process tells the mount process: one JSON object a line.

    {"event": "uploading", "version": k, "bytes_total": n}      begun, or begun again
    {"event": "progress",  "version": k, "bytes_done": n}       of bytes_total; at most every 0.2 s
    {"event": "durable",   "version": k, "seq": s, "files": n, "bytes": n, "bytes_added": n, "bytes_new": n}
                                                                bytes_new: not in the version before, not compressed
    {"event": "lease",     "error": text}                       it was renewed (null), or could not be
    {"event": "retrying",  "version": k, "error": text, "next_s": seconds}      k is 0 if it concerns no single version
    {"event": "regime",    "effort": name, "why": text}         how hard chunks are encoded from now on (effort.py)
    {"event": "pruned",    "versions": n}                       so many were dropped, by the mount's own rules
    {"event": "failed",    "version": k, "error": text}         it can never enter history, and is under aside/ now
    {"event": "fenced",    "error": text}                       nothing can enter history any more; the process ends

Nobody may be left to read them; then they go nowhere.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from ckptfs.errors import CkptfsError
from ckptfs.format.commit import CommitRecord
from ckptfs.transfer.effort import Regime

# a person sees no more than five changes a second, and a line costs the reader a wake-up
_PROGRESS_INTERVAL_S = 0.2


class Events:
    """Writes events to a descriptor; may be used by several threads.

    Args:
        fd: Where to.
        clock: In seconds.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._lock = threading.Lock()
        self._version = 0
        self._progress_s = 0.0

    def begin(self, version: int) -> None:
        """Let later progress be that of a version."""
        self._version, self._progress_s = version, self._clock()

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Tell how far the version at hand is, if it takes long; (0, total) says that it has begun."""
        now_s = self._clock()
        if done_bytes == 0:
            self._write({"event": "uploading", "version": self._version, "bytes_total": total_bytes})
        elif now_s - self._progress_s >= _PROGRESS_INTERVAL_S:
            self._progress_s = now_s
            self._write({"event": "progress", "version": self._version, "bytes_done": done_bytes})

    def durable(self, record: CommitRecord, new_bytes: int = 0) -> None:
        """Tell that a version is in history."""
        numbers = {"files": record.files, "bytes": record.bytes, "bytes_added": record.bytes_added}
        numbers["bytes_new"] = new_bytes
        self._write({"event": "durable", "version": record.version, "seq": record.seq} | numbers)

    def retrying(self, version: int, error: Exception, next_s: float) -> None:
        """Tell that something failed and is tried again."""
        self._write({"event": "retrying", "version": version, "error": describe(error), "next_s": round(next_s, 3)})

    def regime(self, regime: Regime) -> None:
        """Tell how hard chunks are encoded from now on."""
        self._write({"event": "regime", "effort": regime.effort.name.lower(), "why": regime.why})

    def lease(self, error: CkptfsError | None) -> None:
        """Tell that the lease was renewed, or why not."""
        self._write({"event": "lease", "error": describe(error) if error is not None else None})

    def pruned(self, versions: int) -> None:
        """Tell that versions were dropped."""
        self._write({"event": "pruned", "versions": versions})

    def failed(self, version: int, error: Exception) -> None:
        """Tell that a version was put aside."""
        self._write({"event": "failed", "version": version, "error": describe(error)})

    def fenced(self, error: Exception) -> None:
        """Tell that another writer has the store."""
        self._write({"event": "fenced", "error": describe(error)})

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except BrokenPipeError:
                # the mount process is gone; what matters is on disk and in the store
                return


def describe(error: Exception) -> str:
    """Return an error as one line for a person."""
    if isinstance(error, CkptfsError):
        return error.fact
    return f"{type(error).__name__}: {error}"
