"""Noticing what happens to markers in a directory and below it, by inotify (watchdog).

Asked for are names that come and files that are closed after writing, not each write: a training run makes thousands of
those a second. Setting a marker's times gives no such event; the watch looks at its own markers several times a second.

watchdog's reader can die: where a directory was moved away, made anew and removed, or exchanged for another, it does
not find what it has to forget. Then it hears nothing more, and says nothing. So it is taken for dead when files of ours
are not noticed; another takes its place, and markers are looked for in all directories once.

Invariant Q1: what a program did to a marker before a file was made was noticed before that file is (`reached`): the
kernel keeps the order, and so do we.
"""

import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.inotify_c import InotifyFD

from ckptfs.fs.watch.names import RESTORE, SAVE
from ckptfs.threads import NO_THREAD, is_no_thread

log = logging.getLogger(__name__)

# one that the kernel dropped events of is not waited for
_REACH_TIMEOUT_S = 2.0
# the watch writes `.status` every 2 s
_SILENCE_S = 10.0
# more than are exchanged while a program closes what it has open
_KEPT = 16
_MOST_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")


@dataclass(slots=True)
class Noticed:
    """What has been noticed since the last time."""

    is_closed: bool = False
    """A program has closed the root's `.save` after opening it for writing."""
    elsewhere: set[bytes] = field(default_factory=set)
    """Paths of markers in directories below."""


class Notices(FileSystemEventHandler):
    """Notices for one directory.

    Args:
        directory: Absolute.
        temporary_prefix: Of the files that are exchanged for `.save`.
        wake: Set when there is something.
    """

    def __init__(self, directory: Path, temporary_prefix: bytes, wake: threading.Event) -> None:
        self._root = os.fsencode(directory)
        self._temporary_prefix = temporary_prefix
        self._wake = wake
        self._lock = threading.Lock()
        self._noticed = Noticed()
        self._before: Noticed | None = None
        """What had been noticed when the awaited file was made."""
        self._awaited = b""
        self._reached = threading.Event()
        self._closed_by_us: deque[bytes] = deque(maxlen=_KEPT)
        """Temporary files, made by us, that were closed once."""
        self._observer = Observer()
        self._heard_s = time.monotonic()
        self.is_complete = True
        """False where the kernel gives no notices: only what is looked at is noticed."""

    def start(self) -> None:
        """Begin to notice."""
        try:
            # a directory that is made in a new one is met twice, and each time would be 1 KB in the log
            warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning, r"watchdog\.")
            wanted: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent]
            self._observer.schedule(self, os.fsdecode(self._root), recursive=True, event_filter=wanted)
            self._observer.start()
            self._heard_s = time.monotonic()
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_no_thread(error):
                raise
            # the limit on inotify instances of a user, most of all
            self.is_complete = False
            why = error.strerror if isinstance(error, OSError) else NO_THREAD
            log.warning("cannot be told of touches (%s): looking at the root's .save only", why or error)

    def stop(self) -> None:
        """End noticing."""
        if self.is_complete:
            try:
                self._observer.stop()
            except KeyError:
                log.info("watchdog lost count of the directories directory=%r", self._root)
            else:
                self._observer.join(5.0)

    def check(self, written_s: float) -> None:
        """Begin anew if nothing is heard any more.

        Args:
            written_s: When a file in the directory was last made by us, on the monotonic clock.
        """
        if self.is_complete and written_s - self._heard_s > _SILENCE_S:
            log.warning("noticed nothing for %.0f s: beginning anew", written_s - self._heard_s)
            self.stop()
            # one for the whole process, which watchdog never exchanges
            with suppress(KeyError):
                InotifyFD.get_instance().stop()
            InotifyFD._instance = None
            self._observer = Observer()
            self.start()
            self.look_everywhere()

    def look_everywhere(self, tried: Iterable[bytes] = ()) -> None:
        """Look for markers in all directories below, but for those that were tried a moment ago."""
        found = {
            os.path.join(directory, SAVE)[len(self._root) + 1 :]
            for directory, _, names in os.walk(self._root)
            if SAVE in names and directory != self._root
        }
        with self._lock:
            self._noticed.elsewhere |= found.difference(tried)
        self._wake.set()

    def check_limit(self, directories: int) -> None:
        """Say it if the kernel does not watch as many directories as there are."""
        try:
            most = int(_MOST_WATCHES.read_text())
        except (OSError, ValueError):
            return
        if directories > most and self.is_complete:
            log.warning(
                "touches in some directories will not be noticed directories=%d fs.inotify.max_user_watches=%d",
                directories,
                most,
            )

    def await_file(self, name: bytes) -> None:
        """Expect that a file of ours is made in the directory; called before it is."""
        with self._lock:
            self._awaited, self._before = name, None
            self._reached.clear()

    def reached(self) -> Noticed:
        """Return what had been noticed before the awaited file was made (Q1)."""
        if self.is_complete and not self._reached.wait(_REACH_TIMEOUT_S):
            log.warning("notices are late, or were lost")
        with self._lock:
            if self._before is None:
                self._before, self._noticed = self._noticed, Noticed()
            return self._before

    def has_any(self) -> bool:
        """True if the marker was closed, or one below may have been touched."""
        with self._lock:
            return self._noticed.is_closed or bool(self._noticed.elsewhere)

    def below(self) -> list[bytes]:
        """Return the paths of markers below that may have been touched."""
        with self._lock:
            return sorted(self._noticed.elsewhere)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog's thread with each event, in their order."""
        self._heard_s = time.monotonic()
        for path in (event.src_path, event.dest_path):
            if path:
                self._notice(os.fsencode(path), is_close=isinstance(event, FileClosedEvent))

    def _notice(self, path: bytes, *, is_close: bool) -> None:
        directory, _, name = path.rpartition(b"/")
        in_root = directory == self._root
        with self._lock:
            if in_root and name.startswith(self._temporary_prefix):
                self._notice_temporary(name, is_close=is_close)
            elif in_root and name in (SAVE, RESTORE):
                # what comes by another way than a close is seen by looking
                self._noticed.is_closed |= is_close and name == SAVE
            elif name == SAVE:
                self._noticed.elsewhere.add(path[len(self._root) + 1 :])
            else:
                return
        self._wake.set()

    def _notice_temporary(self, name: bytes, *, is_close: bool) -> None:
        if not is_close:
            if name == self._awaited:
                self._awaited = b""
                self._before, self._noticed = self._noticed, Noticed()
                self._reached.set()
        elif name in self._closed_by_us:
            # a program had opened the marker before it was exchanged for this one
            self._noticed.is_closed = True
        else:
            self._closed_by_us.append(name)
