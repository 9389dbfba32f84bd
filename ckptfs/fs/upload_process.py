"""The upload process as its mount has it: started, waked, listened to, and started again until the mount ends.

It owns the network side of a mount (transfer/process.py); what it takes and what it has done is on disk and in the
store. The pipes carry wake-ups and news only, so either side may die at any moment. It is started again whenever it
ends, unless it was fenced.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ckptfs.cache.directory import CacheDirectory
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CkptfsError
from ckptfs.fs.counters import Counters
from ckptfs.transfer.gathering import HURRY

FENCED_EXIT = 3
KEY_COMES = "key"
"""Argument of the upload process (transfer/process.py): the first line of its standard input is the key."""
_FIRST_RESTART_S, _LAST_RESTART_S = 0.2, 5.0

log = logging.getLogger(__name__)


class UploadChild:
    """The upload process of one mount, and those that come after it.

    Args:
        cache: The store's cache directory, which it is given.
        on_news: Called with each event that it tells (transfer/events.py).
        on_end: Called whenever it has ended, before it is started again.
        counters: Told of each end that was not asked for.
        key: Of an encrypted store.
    """

    def __init__(
        self,
        cache: CacheDirectory,
        *,
        on_news: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
        counters: Counters,
        key: KeySource | None,
    ) -> None:
        self._cache = cache
        self._on_news = on_news
        self._on_end = on_end
        self._counters = counters
        self._key = key
        self._stopping = False
        self.running: subprocess.Popen[bytes] | None = None
        """The one that was started last."""
        self._over = threading.Event()
        """Nothing runs it: not yet, or no more."""
        self._over.set()

    def run(self) -> None:
        """Start it and keep it running, until it is stopped or fenced."""
        self._over.clear()
        try:
            self._keep_running()
        finally:
            self._over.set()

    def wake(self, *, hurry: bool) -> None:
        """There may be something to upload.

        Args:
            hurry: Somebody waits for it: it is not gathered (transfer/gathering.py).
        """
        process = self.running
        if process is not None:
            _tell(process, HURRY if hurry else b"")

    def stop(self, linger_s: float) -> None:
        """End it; what it has not done stays pending.

        Args:
            linger_s: How long it may still take to end by itself.
        """
        self._stopping = True
        process = self.running
        if process is not None:
            if linger_s and process.stdin is not None:
                try:
                    process.stdin.close()
                    process.wait(linger_s)
                except (OSError, subprocess.TimeoutExpired):
                    pass  # it is not going to end by itself
            process.terminate()
        self._over.wait(10.0)

    def _keep_running(self) -> None:
        pause_s = _FIRST_RESTART_S
        while not self._stopping:
            started_s = time.monotonic()
            try:
                code = self._run_once()
                self._on_end()
                ended = f"exit_code={code}"
            except (OSError, CkptfsError) as error:
                # descriptors, memory or processes have run out, as long as a program takes them; versions wait for it
                code, ended = 0, f"error={str(error)!r}"
            if self._stopping or code == FENCED_EXIT:
                return
            if time.monotonic() - started_s > _LAST_RESTART_S:
                pause_s = _FIRST_RESTART_S
            self._counters.error("upload_process")
            log.warning("upload process ended %s restart_in_s=%.1f", ended, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_RESTART_S)

    def _run_once(self) -> int:
        session = self._cache.read_session()
        whose = f"{session.get('epoch')}.{session.get('pid')}"
        command = [sys.executable, "-P", "-m", "ckptfs.transfer.process", os.fspath(self._cache.root), whose]
        if self._key is not None:
            command.append(KEY_COMES)
        # in a session of its own, which can be weighed as a whole (let_other_sessions_first)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            if process.stdin is not None:
                # a process that does not read has wake-ups enough
                os.set_blocking(process.stdin.fileno(), False)
            if self._key is not None:
                _tell(process, self._key().reveal().hex().encode())
            self.running = process
            # for what was captured while it began, and nobody could wake it: it may have looked before
            _tell(process, b"")
            if self._stopping:
                process.terminate()
            if process.stdout is None:
                raise AssertionError("stdout is a pipe")
            for line in process.stdout:
                try:
                    self._on_news(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    log.exception("upload process said something unreadable line=%r", line[:200])
            try:
                if process.stdin is not None:
                    process.stdin.close()
            except OSError:
                pass  # a wake-up that it did not live to read
            return process.wait()


def _tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    try:
        if process.stdin is not None:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
    except (OSError, ValueError):
        pass  # it has died: its successor looks by itself
