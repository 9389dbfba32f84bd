"""Requests whose program got a signal while it waits for us: what waits long looks here and gives up with EINTR.

Not for every signal. One with a handler - a child that ended, a profiler's clock - would turn a save that has to wait
into one that failed; so only signals that end the program, or that people and time-outs send, count.
"""

import errno
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ckptfs.fs.syscalls import pending_signals

POLL_S = 0.25
"""How often a wait is to look."""

_ASKING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM}
# an interrupt may be read before the request that it is for
_EARLY = 64


@dataclass(slots=True)
class _Waiting:
    thread: int
    interrupted: bool = False


class Interrupts:
    """The requests that are being served, by the number that the kernel gave them."""

    def __init__(self) -> None:
        self._serving: dict[int, _Waiting] = {}
        self._early: deque[int] = deque(maxlen=_EARLY)
        self._lock = threading.Lock()

    @contextmanager
    def serving(self, unique: int, thread: int) -> Iterator[None]:
        """Serve a request of a program's thread here."""
        waiting = _Waiting(thread)
        with self._lock:
            waiting.interrupted = unique in self._early
            self._serving[unique] = waiting
        _here.waiting = waiting
        try:
            yield
        finally:
            _here.waiting = None
            with self._lock:
                self._serving.pop(unique, None)

    def interrupt(self, unique: int) -> None:
        """The program of a request got a signal."""
        with self._lock:
            waiting = self._serving.get(unique)
            if waiting is None:
                self._early.append(unique)
            else:
                waiting.interrupted = True


class _Here(threading.local):
    waiting: _Waiting | None = None


_here = _Here()


def give_up_if_interrupted() -> None:
    """Raise InterruptedError if the program of the request that this thread serves is to end."""
    waiting = _here.waiting
    if waiting is not None and waiting.interrupted:
        pending = pending_signals(waiting.thread)
        if pending is None or pending.deadly or pending.caught & _ASKING:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
