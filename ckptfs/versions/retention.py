"""Which versions to keep: the newest, one for each of the last days, and every so-manieth for ever.

Pure. What a rule keeps is kept, whatever the others say. Tagged versions are the caller's (prune.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Rules; None: the rule keeps nothing. Without any rule everything is kept."""

    keep_last: int | None = None
    """The newest so many versions."""
    keep_daily: int | None = None
    """The newest version of each of the last so many days on which there is one (UTC, as captured)."""
    keep_every: int | None = None
    """Versions whose number it divides."""

    @property
    def keeps_all(self) -> bool:
        """True if there is no rule."""
        return self.keep_last is self.keep_daily is self.keep_every is None

    def kept(self, numbers: Sequence[int], captured_ns: Callable[[int], int]) -> set[int]:
        """Return the versions to keep.

        Args:
            numbers: Of all versions there are, newest first.
            captured_ns: Returns when a version was captured; asked, from the newest on, until there are enough days.
        """
        if self.keeps_all or not numbers:
            return set(numbers)
        kept = {numbers[0], *numbers[: self.keep_last or 0]}
        if self.keep_every:
            kept.update(number for number in numbers if number % self.keep_every == 0)
        days: set[int] = set()
        for number in numbers if self.keep_daily else ():
            day = captured_ns(number) // _DAY_NS
            if day not in days:
                days.add(day)
                kept.add(number)
            if len(days) == self.keep_daily:
                break
        return kept
