"""Touches of a watched directory's `.save`: noticed, let end, and taken with what they wrote."""

import threading
import time
from collections.abc import Callable

from ckptfs.fs.leases import is_being_written
from ckptfs.fs.watch.marker_file import MarkerFile, Taken, take_file
from ckptfs.fs.watch.noticing import Notices

# `touch` and `cp -p` take 2 ms from the first close or utime to the last, 50 ms on a busy machine
_SETTLE_S = 0.05
# a note that is being written; as long as a mount waits for one (fs/marker.py)
_LINGER_S = 10.0
_LINGER_LOOK_S = 0.02
CLOCK_TICK_S = 0.012
"""The coarse clock of ctimes ticks every 1 to 10 ms."""


class Touches:
    """Those of one watch.

    Args:
        root_fd: Of the directory.
        marker: Its `.save`.
        notices: Of that, and of every `.save` below.
        stop: Set when the watch is to end: then it is waited less.
    """

    def __init__(self, root_fd: int, marker: MarkerFile, notices: Notices, stop: threading.Event) -> None:
        self._root_fd = root_fd
        self._marker = marker
        self._notices = notices
        self._stop = stop

    def has_any(self) -> bool:
        """True if there may be something to take."""
        return self._notices.has_any() or (self._marker.is_touched() and not self._marker.forget_tail())

    def take(self) -> list[Taken]:
        """Let touches end, and take what they wrote; empty if there was none after all."""
        self._stop.wait(_SETTLE_S)
        let_end(self._is_being_written)
        touched = self._marker.is_touched()
        self._notices.await_file(self._marker.next_name())
        prepared = self._marker.prepare()
        noticed = self._notices.reached()
        taken = [self._marker.take(prepared)]
        below = [text for path in sorted(noticed.elsewhere) if (text := take_file(self._root_fd, path)) is not None]
        if len(below) < len(noticed.elsewhere):
            # removed since; or its directory was exchanged for another, and watchdog takes the one for the other
            self._notices.look_everywhere(noticed.elsewhere)
        # so that a later touch has a later ctime than what is answered now
        time.sleep(CLOCK_TICK_S)
        return [*taken, *below] if touched or noticed.is_closed or below else []

    def _is_being_written(self) -> bool:
        below = self._notices.below()
        return self._marker.is_being_written() or any(is_being_written(self._root_fd, path) for path in below)


def let_end(is_being_written: Callable[[], bool]) -> None:
    """Return when nobody writes any more, or who does lingers."""
    deadline_s = time.monotonic() + _LINGER_S
    while is_being_written() and time.monotonic() < deadline_s:
        time.sleep(_LINGER_LOOK_S)
