"""A mount's retention: when a version has become durable, those that its rules do not keep any more are dropped.

In a thread of its own, and with requests of its own: no upload waits for it, but for one that meets its record in the
race for the next number, and then takes the one after (docs/adr/0001).
"""

import logging
import threading
from collections.abc import Callable

from ckptfs.errors import CkptfsError, FencedError
from ckptfs.threads import require_thread
from ckptfs.versions.prune import Pruned, Pruner
from ckptfs.versions.retention import Retention

# 60 s: what is dropped later costs space and nothing else
_RETRY_S = 60.0

log = logging.getLogger(__name__)


class Retainer:
    """Prunes by some rules, whenever it is woken.

    Args:
        pruner: Its epoch is the mount's: after a takeover it prunes no more.
        retention: The rules; at least one.
        on_pruned: Told what was done, if anything.
    """

    def __init__(
        self, pruner: Pruner, retention: Retention, on_pruned: Callable[[Pruned], None] = lambda done: None
    ) -> None:
        self._pruner = pruner
        self._retention = retention
        self._on_pruned = on_pruned
        self._changed = threading.Condition()
        # what an earlier session left is finished first
        self._is_wanted = True
        self._is_ending = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Raises ExhaustedError."""
        self._thread = require_thread(self._run, "ckptfs-retention")

    def wake(self) -> None:
        """There is a new version."""
        with self._changed:
            self._is_wanted = True
            self._changed.notify()

    def end(self, timeout_s: float) -> None:
        """Do what is left to do, for no longer than some time."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s: float | None = None
        while self._wait(pause_s):
            try:
                done = self._pruner.prune(self._retention)
            except FencedError:
                return
            except CkptfsError as error:
                log.warning("could not prune error=%r", error.fact)
                pause_s = _RETRY_S
                continue
            pause_s = None
            if done.dropped or done.objects:
                log.info(
                    "pruned versions=%d kept=%d objects=%d orphans=%d bytes=%d",
                    *(len(done.dropped), done.kept, done.objects, done.orphans, done.size_bytes),
                )
                self._on_pruned(done)

    def _wait(self, pause_s: float | None) -> bool:
        """Wait until there is something to do, or something failed some time ago; return False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_wanted or self._is_ending, pause_s)
            is_over = self._is_ending and not self._is_wanted
            self._is_wanted = False
            return not is_over
