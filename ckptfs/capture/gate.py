"""The gate between operations and captures: many operations at once, or one capture alone.

A capture that waits holds new operations back, so it is never starved; operations are short (network work is done
before the gate is entered), so it does not wait long. Not reentrant: a thread inside must not enter again.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A readers-writer lock that prefers the writer; `with gate:` is the shared side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._closed and self._inside == 0:
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until nobody is inside, and keep everybody out."""
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._closed = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._lock:
                self._closed = False
                self._changed.notify_all()
