"""Noticing that the configuration has changed.

Editors, package managers and Kubernetes each replace files in their own way, so any event in the directory is a reason
to look, once things have been quiet for a moment. No event tells that the directory itself was exchanged for another,
what a symbolic link leads to, or what another machine wrote to a network filesystem: that is found by looking now and
then.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from ckptfsd.configuration_files import configuration_files

log = logging.getLogger("ckptfsd")

_QUIET_S = 0.5
"""An editor writes, renames and removes within milliseconds; a person who saves two files takes longer than this."""
_READS = ("opened", "closed_no_write")


class ConfigurationWatcher:
    """Calls back, in the event loop's thread, when the configuration's content has changed.

    Args:
        path: Of its first file.
        on_change: What to call.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._digest = digest_of(path)
        self._observer = Observer()

    def start(self) -> None:
        """Begin; where the kernel allows no more watches, that is said, and `look_again` is what is left."""

        class Handler(FileSystemEventHandler):
            def on_any_event(handler, event: FileSystemEvent) -> None:  # noqa: N805
                if event.event_type not in _READS:
                    self._loop.call_soon_threadsafe(self._touched)

        try:
            self._observer.schedule(Handler(), str(self._path.parent), recursive=True)
            self._observer.start()
        except OSError as error:
            log.warning("cannot watch directory=%s error=%r: changes are noticed later", self._path.parent, str(error))

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        if self._observer.is_alive():
            # watchdog loses count of directories that were exchanged or made anew; mounts are drained all the same
            with suppress(KeyError):
                self._observer.stop()
                self._observer.join(5.0)

    def seen(self) -> None:
        """The configuration is being taken as it is now."""
        self._digest = digest_of(self._path)

    async def look_again(self) -> None:
        """Look whether something has changed that no event told of."""
        # in a thread: a network filesystem may take its time
        if await asyncio.to_thread(digest_of, self._path) != self._digest:
            self._touched()

    def _touched(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_QUIET_S, self._look)

    def _look(self) -> None:
        if digest_of(self._path) != self._digest:
            self.seen()
            self._on_change()


def digest_of(path: Path) -> str:
    """Return what changes with any byte of the configuration."""
    digest = hashlib.sha256()
    for each in configuration_files(path):
        try:
            content = each.read_bytes()
        except OSError as error:
            content = str(error).encode()
        digest.update(b"%s\0%d\0%s" % (bytes(each), len(content), content))
    return digest.hexdigest()
