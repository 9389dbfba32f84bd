"""Asking a store again: bounded, with exponential backoff and jitter. The one importer of tenacity."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from ckptfs.errors import StoreUnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long a request whose outcome is unknown is sent again."""

    budget_s: float = 30.0
    """No new attempt begins later than this after the first one began."""
    first_s: float = 0.05
    """Upper end of the first pause; it doubles each time. The pause is drawn evenly from [0, upper end]."""
    most_s: float = 5.0
    """Upper end of every later pause."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def call(self, request: Callable[[], T]) -> T:
        """Return what the request returns, sending it again after each StoreUnavailableError.

        Raises:
            StoreUnavailableError: The last attempt's, once the budget is used up: the outcome is still unknown.
            CkptfsError: Whatever else the request raises, at once.
        """
        started_s = self.clock()
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StoreUnavailableError),
            wait=tenacity.wait_random_exponential(multiplier=self.first_s, max=self.most_s),
            stop=lambda _: self.clock() - started_s >= self.budget_s,
            sleep=self.sleep,
            reraise=True,
        )
        return attempts(request)
