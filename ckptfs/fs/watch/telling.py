"""Telling programs how it stands: `.status` and `.save.status`, kept up to date whatever the watch is doing."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ckptfs.fs.control import status_text
from ckptfs.fs.uploads import Uploads
from ckptfs.fs.watch.answers import Answers
from ckptfs.fs.watch.marker_file import replace_text
from ckptfs.fs.watch.names import ANSWERS, STATUS
from ckptfs.threads import require_thread

log = logging.getLogger(__name__)

# how often `.status` is written if nothing happens: one that has not been for some times that has nobody who writes it
HEARTBEAT_S = 2.0
_LOOK_S = 0.1


class Telling:
    """The two files of one watch that nobody else writes to.

    Args:
        root_fd: The directory.
        answers: What `.save.status` says.
        uploads: Tells when there may be something new.
        status: Returns the fields of `.status`.
    """

    def __init__(self, root_fd: int, answers: Answers, uploads: Uploads, status: Callable[[], dict[str, Any]]) -> None:
        self._root_fd = root_fd
        self._answers = answers
        self._uploads = uploads
        self._status = status
        self._lock = threading.Lock()
        self._told: tuple[bytes, dict[str, Any]] = (b"", {})
        self._told_s = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Keep telling. Raises ExhaustedError."""
        self._thread = require_thread(self._run, "telling")

    def tell(self, *, always: bool = False) -> None:
        """Write what has changed. Raises OSError."""
        with self._lock:
            # in this order, and `.status` is written first: who sees an answer finds its version in `.status`
            answers = self._answers.text()
            status = self._status()
            is_due = always or time.monotonic() - self._told_s > HEARTBEAT_S
            is_missing = self._is_missing()
            if not is_due and not is_missing and (answers, status) == self._told:
                return
            replace_text(self._root_fd, STATUS, status_text(lambda: status))
            if is_missing or answers != self._told[0]:
                replace_text(self._root_fd, ANSWERS, answers)
            self._told, self._told_s = (answers, status), time.monotonic()

    @property
    def told_s(self) -> float:
        """When `.status` was written last, on the monotonic clock."""
        return self._told_s

    def stop(self, *, keep_answers: bool) -> None:
        """Tell how it stands at the end, and remove the files.

        Args:
            keep_answers: Leave `.save.status`, by which the next watch knows the directory again.
        """
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for name in (STATUS,) if keep_answers else (STATUS, ANSWERS):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._root_fd)

    def _is_missing(self) -> bool:
        """True if somebody who emptied the directory removed one of ours as well."""
        try:
            for name in (STATUS, ANSWERS):
                os.stat(name, dir_fd=self._root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._uploads.wait_briefly(_LOOK_S)
            is_last = self._over.is_set()
            try:
                self.tell(always=is_last)
            except OSError as error:
                log.warning("could not write %s: %s", os.fsdecode(STATUS), error.strerror)
                self._over.wait(HEARTBEAT_S)
