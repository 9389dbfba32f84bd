"""How hard to encode: as hard as there is time for.

Fewer bytes are worth their processor time as long as nobody waits for it. What waits is a version that was captured
while another is uploaded; and encoding is what it waits for only if the store could have taken more meanwhile. Then,
and only then, encoding is made cheaper, a step a second, and dearer again when either is over.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ckptfs.transfer.encoding import Effort

# long enough to hold some chunks of either side
_WINDOW_S = 1.0
# of the window: less is the reading between two chunks
_MOSTLY = 0.3


class Regime(NamedTuple):
    """How hard chunks are encoded now, and why."""

    effort: Effort
    why: str


IDLE = Regime(Effort.DENSE, "no other version waits")


class EffortControl:
    """Decides between the efforts. Told by one thread how long it waited; asked by many.

    Args:
        backlog: How many versions wait behind the one that is uploaded.
        on_change: Told of each new regime.
        clock: In seconds.
    """

    def __init__(
        self,
        backlog: Callable[[], int] = lambda: 0,
        on_change: Callable[[Regime], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backlog = backlog
        self._on_change = on_change
        self._clock = clock
        self._regime = IDLE
        self._since_s = clock()
        self._for_encoders_s = 0.0
        self._for_store_s = 0.0
        self._lock = threading.Lock()

    @property
    def effort(self) -> Effort:
        """How hard to encode the next chunk."""
        return self._regime.effort

    def waited(self, *, for_encoders_s: float = 0.0, for_store_s: float = 0.0) -> None:
        """The uploading thread had nothing to do for some time, because encoders or the store had not done theirs."""
        self._for_encoders_s += for_encoders_s
        self._for_store_s += for_store_s
        now_s = self._clock()
        window_s = now_s - self._since_s
        if window_s < _WINDOW_S:
            return
        regime = self._decide(self._for_encoders_s / window_s, self._for_store_s / window_s)
        self._since_s, self._for_encoders_s, self._for_store_s = now_s, 0.0, 0.0
        if regime != self._regime:
            self._regime = regime
            self._on_change(regime)

    def _decide(self, for_encoders: float, for_store: float) -> Regime:
        waiting = self._backlog()
        if waiting == 0:
            return IDLE
        behind = f"{waiting} version{'s wait' if waiting > 1 else ' waits'}"
        effort = self._regime.effort
        if for_encoders > max(for_store, _MOSTLY):
            return Regime(Effort(max(effort - 1, min(Effort))), f"{behind}, and the store takes more than is encoded")
        if for_store > max(for_encoders, _MOSTLY):
            return Regime(Effort(min(effort + 1, max(Effort))), f"{behind}, and the store takes less than is encoded")
        return Regime(effort, self._regime.why)
