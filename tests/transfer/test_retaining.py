"""A mount's retention: when it prunes, when it tries again, and when it stops."""

import threading
from collections.abc import Callable

import pytest

from ckptfs.errors import FencedError, StoreUnavailableError
from ckptfs.transfer import retaining
from ckptfs.transfer.retaining import Retainer
from ckptfs.versions.prune import Pruned, Pruner
from ckptfs.versions.retention import Retention
from tests.versions.memory_store import MemoryStore
from tests.versions.scene import Series, acquire, fresh


class Steps(Pruner):
    """Prunes a store, or fails, as a test says; counts how often."""

    def __init__(self, store: MemoryStore, *outcomes: Callable[[], None]) -> None:
        super().__init__(fresh(store), acquire(store)._retry, host="a", pid=1)
        self._outcomes = list(outcomes)
        self.calls = threading.Semaphore(0)

    def prune(self, retention: Retention) -> Pruned:
        try:
            if self._outcomes:
                self._outcomes.pop(0)()
            return super().prune(retention)
        finally:
            self.calls.release()

    def wait(self) -> None:
        assert self.calls.acquire(timeout=20)


def store_with(versions: int) -> MemoryStore:
    store = MemoryStore()
    made = Series(acquire(store))
    for _ in range(versions):
        made.save("a")
    return store


def unavailable() -> None:
    raise StoreUnavailableError("it is away")


def fenced() -> None:
    raise FencedError("taken over")


def test_it_finishes_what_was_left_when_it_starts_and_prunes_when_woken() -> None:
    store = store_with(3)
    told: list[Pruned] = []
    steps = Steps(store)
    retainer = Retainer(steps, Retention(keep_last=2), told.append)
    retainer.start()
    steps.wait()
    made = Series(acquire(store))
    made.files = {}
    made.save("a")
    retainer.wake()
    steps.wait()
    retainer.end(20)
    assert fresh(store).numbers() == [3, 4]
    assert [done.dropped for done in told] == [[1], [2]]


def test_a_store_that_is_away_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retaining, "_RETRY_S", 0.01)
    store = store_with(3)
    steps = Steps(store, unavailable, unavailable)
    retainer = Retainer(steps, Retention(keep_last=1))
    retainer.start()
    for _ in range(3):
        steps.wait()
    retainer.end(20)
    assert fresh(store).numbers() == [3]


def test_after_a_takeover_it_stops() -> None:
    store = store_with(3)
    steps = Steps(store, fenced)
    retainer = Retainer(steps, Retention(keep_last=1))
    retainer.start()
    steps.wait()
    retainer.wake()
    retainer.end(20)
    assert fresh(store).numbers() == [1, 2, 3]
