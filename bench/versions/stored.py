"""What one way of storing made of the versions of a sequence."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes by version; a version that a method was not asked about is missing."""

    method: str
    raw_bytes: dict[int, int]
    """The files' own size, by the version's number."""
    added_bytes: dict[int, int]
    """By how much the store grew."""

    def percent(self, number: int) -> float:
        """Return what a version took, of its size."""
        return 100 * self.added_bytes[number] / self.raw_bytes[number]

    @property
    def first_percent(self) -> float:
        """Of the version at distance 1 from the first, which stands alone."""
        return self.percent(1)

    @property
    def mean_percent(self) -> float:
        """Of all versions but the first."""
        return statistics.mean(self.percent(number) for number in self.added_bytes if number)
