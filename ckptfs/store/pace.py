"""Keeping uploads below so many bytes a second.

Bodies are let through in small pieces, so that the limit holds over tenths of a second and not only on average: whoever
shares the link waits for a piece, and not for an object.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator

# a quarter of a second of a slow link, and few enough calls on a fast one
_PIECE_BYTES = 64 << 10


class Pace:
    """A limit that several uploads share; safe for threads.

    Args:
        bytes_per_s: 1 or more.
        clock, sleep: In seconds.
    """

    def __init__(
        self,
        bytes_per_s: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_s = clock()
        """When all that was let through so far will have taken its time."""

    def wait(self, size_bytes: int) -> None:
        """Return when so many bytes more may go."""
        with self._lock:
            now_s = self._clock()
            start_s = max(self._free_s, now_s)
            self._free_s = start_s + size_bytes / self._bytes_per_s
        if start_s > now_s:
            self._sleep(start_s - now_s)

    def pieces(self, body: bytes) -> Iterator[memoryview]:
        """Yield a body piece by piece, each when it may go."""
        view = memoryview(body)
        for start in range(0, len(view), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self.wait(len(piece))
            yield piece


class PacedBody(io.BytesIO):
    """A body for an HTTP client, which reads it as it sends it."""

    def __init__(self, body: bytes, pace: Pace) -> None:
        super().__init__(body)
        self._pace = pace

    def read(self, size_bytes: int | None = -1) -> bytes:
        """Return at most so many bytes (negative: all that are left), when they may go."""
        data = super().read(size_bytes)
        self._pace.wait(len(data))
        return data
