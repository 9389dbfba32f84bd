"""When to begin with what was captured: at once, unless saves come so fast that each would be an upload of its own.

An upload takes processor time, and on a store in a directory it fsyncs, which holds up changes of the filesystem that
the live tree is in, too: a loop that saved every 0.1 s lost 2 ms of each step to it. Begun half a second after the
last, an upload finds some versions at once, and meets one save in place of all of them.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

HURRY = b"!"
"""In a line to the upload process: somebody waits."""
# more than 4 versions a second, for 2 s: who saves now and then, also some times in a row, never waits
_VERSIONS, _WITHIN_S = 8, 2.0
# how much later a version may be durable for it
GATHERED_S = 0.5


class Gathering:
    """Tells how long to gather versions before the next upload begins. Used by one thread, hurried by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: deque[float] = deque(maxlen=_VERSIONS)
        """When the last uploads began, one time for each version."""
        self._hurried = threading.Event()

    def begin(self) -> None:
        """The upload of a version begins."""
        self._begun.append(self._clock())

    def hurry(self) -> None:
        """Somebody waits until what was captured is durable, or asks whether it is."""
        self._hurried.set()

    def calm(self) -> None:
        """Whoever waited is about to be served."""
        self._hurried.clear()

    def pause_s(self) -> float:
        """Return how long to gather (s); 0 where versions come seldom."""
        if len(self._begun) < _VERSIONS or self._clock() - self._begun[0] > _WITHIN_S:
            return 0.0
        return max(0.0, self._begun[-1] + GATHERED_S - self._clock())

    def wait(self) -> None:
        """Return when it is time to begin: after the pause, or as soon as anybody is in a hurry."""
        pause_s = self.pause_s()
        if pause_s:
            self._hurried.wait(pause_s)
