"""Deciding what a collection is to say: which versions go, and which objects nobody needs then (prune.py, G2 and G3).

It takes requests in proportion to what is dropped: a version's neighbours show what of it is needed (needs.py), and an
epoch is searched for orphans when it has ended, and once more after the next, for what came late.
"""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice, takewhile

from ckptfs.errors import CorruptObjectError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.keys import PACK_PREFIX, SEGMENT_PREFIX, is_pack_key, pack_epoch, packs_since, segments_since
from ckptfs.versions import ranges
from ckptfs.versions.history import History
from ckptfs.versions.needs import NeedsReader, revived_packs
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry

MAX_VERSIONS = 1000
"""Dropped by one record: what they need is held in memory until it is committed."""
MAX_KEYS = 100_000
"""Condemned by one record, which is then 5 MB of the 16 MiB that it may have: 3 TB in packs of 32 MiB. It is
exceeded by what one version needs at most."""

OnProgress = Callable[[int, int], None]
"""Gets versions looked at, and how many are to be dropped."""


@dataclass(slots=True, kw_only=True)
class Collection:
    """What one gc record is to say."""

    newest: CommitRecord
    """The record that it is to follow."""
    dropped: list[int] = field(default_factory=list)
    """Versions, ascending."""
    kept: int = 0
    """How many versions are left."""
    condemned: dict[str, int] = field(default_factory=dict)
    """Keys, and the bytes of each as far as they are known."""
    orphans: int = 0
    """How many of those no version has named."""
    swept: int = 0
    """Epoch up to which orphans were looked for."""
    damaged: list[int] = field(default_factory=list)
    """Dropped versions whose manifest cannot be read; what only they needed is found later, as orphans."""

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to say."""
        return not self.dropped and not self.condemned


class Collector:
    """Decides, time and again, what can be collected in one store. Used by one thread.

    Args:
        readers: Threads that read records ahead where many versions are dropped at once.
    """

    def __init__(
        self, history: History, retry: Retry, on_progress: OnProgress = lambda done, total: None, *, readers: int = 16
    ) -> None:
        self._history = history
        self._retry = retry
        self._on_progress = on_progress
        self._readers = readers
        self._needs = NeedsReader(history, retry)
        self._listed: dict[tuple[int, int], dict[str, int]] = {}
        """What was put from one ended epoch to another, without what versions need as far as they were looked at."""
        self._clean: tuple[int, int] | None = None
        """Epochs that were searched and have no orphans."""

    def plan(self, retention: Retention, newest: CommitRecord, *, at_once: bool = False) -> Collection:
        """Return what can be collected as of a record.

        Args:
            retention: What to keep.
            newest: The record.
            at_once: All of it, and not only as much as one record should say.

        Raises:
            CorruptObjectError: What a version that is left needs cannot be known.
        """
        dropped = self._retry.call(lambda: self._history.dropped(newest=newest))
        live = list(ranges.outside(ranges.union(newest.gaps, dropped), newest.version))[::-1]
        max_versions, max_keys = (len(live), sys.maxsize) if at_once else (MAX_VERSIONS, MAX_KEYS)
        plan = Collection(newest=newest)
        self._drop(plan, live, self._doomed(retention, newest, live)[:max_versions], max_keys)
        survivors = sorted(set(live).difference(plan.dropped))
        plan.kept = len(survivors)
        self._subtract(plan.condemned, _beside(plan.dropped, survivors), newest)
        orphans = self._orphans(plan, survivors, max_keys)
        plan.condemned |= orphans
        self._spare_revived(plan, survivors)
        plan.orphans = len(orphans.keys() & plan.condemned.keys())
        return plan

    def collected(self) -> None:
        """What was planned is in history: forget what is not needed for the next plan."""
        self._needs.trim()
        self._listed.clear()

    def _doomed(self, retention: Retention, newest: CommitRecord, live: Sequence[int]) -> list[int]:
        """Return the versions to be dropped, ascending (G2)."""

        def captured_ns(number: int) -> int:
            return self._needs.record(number, newest).captured_ns

        tagged = self._retry.call(lambda: self._history.tags(newest=newest)).values()
        pinned = (number for number, _ in newest.pins)
        kept = retention.kept(live[::-1], captured_ns).union(tagged, pinned, [newest.version])
        return [number for number in live if number not in kept]

    def _drop(self, plan: Collection, live: Sequence[int], doomed: Sequence[int], max_keys: int) -> None:
        """Drop versions, and condemn all that they need, until it is enough for one record."""
        going = set(doomed)
        if len(doomed) > self._readers > 1:
            self._read_ahead(doomed, plan.newest)
        for number in doomed:
            below = live[max(0, bisect_left(live, number) - 1)]
            if below not in going:
                # it is asked for later, and costs least before the version that continues it
                self._needs.of(below, plan.newest)
            try:
                plan.condemned |= self._needs.of(number, plan.newest)
            except CorruptObjectError:
                plan.damaged.append(number)
            plan.dropped.append(number)
            self._on_progress(len(plan.dropped), len(doomed))
            if len(plan.condemned) >= max_keys:
                return

    def _read_ahead(self, numbers: Sequence[int], newest: CommitRecord) -> None:
        """Have the records of many versions at hand: one after another, at 20 ms a GET, 1,000 would take 20 s."""
        with ThreadPoolExecutor(self._readers, thread_name_prefix="ckptfs-prune") as threads:
            # what cannot be read fails when it is asked for
            wait([threads.submit(self._needs.record, number, newest) for number in numbers])

    def _subtract(self, keys: dict[str, int], numbers: Iterable[int], newest: CommitRecord) -> None:
        """Leave out what some versions need."""
        for number in numbers:
            for key in self._needs.of(number, newest).keys() & keys.keys():
                del keys[key]

    def _orphans(self, plan: Collection, survivors: Sequence[int], max_keys: int) -> dict[str, int]:
        """Return what no version named of the objects of epochs that have ended (G3), and note how far that is."""
        newest = plan.newest
        swept = self._retry.call(lambda: self._history.record(newest.gc)).swept if newest.gc else 0
        plan.swept = swept
        # the last one again: its writer may have put something before it knew that its epoch was over
        first, last = max(1, swept), newest.epoch - 1
        orphans: dict[str, int] = {}
        if last > swept and (first, last) != self._clean:
            orphans = dict(self._objects(first, last))
            if orphans:
                self._subtract(orphans, self._of_epochs(first, last, survivors, newest), newest)
            if not orphans:
                self._clean = (first, last)
            orphans = {key: size for key, size in orphans.items() if key not in plan.condemned}
        if len(orphans) <= max_keys:
            plan.swept = max(swept, last)
        if plan.damaged:
            # what only they needed is an orphan from now on, in the epoch of the version or an earlier one
            plan.swept = min(plan.swept, *(self._needs.record(each, newest).epoch - 1 for each in plan.damaged))
        return dict(islice(orphans.items(), max_keys))

    def _objects(self, first: int, last: int) -> dict[str, int]:
        """Return the packs and segments that were put in some epochs, and their sizes."""
        if (first, last) not in self._listed:
            store = self._history.store

            def listed(prefix: str, since: Callable[[int], str]) -> dict[str, int]:
                rows = store.list(prefix, after=since(first))
                return {row.key: row.size_bytes for row in takewhile(lambda row: row.key < since(last + 1), rows)}

            packs = self._retry.call(lambda: listed(PACK_PREFIX, packs_since))
            self._listed = {(first, last): packs | self._retry.call(lambda: listed(SEGMENT_PREFIX, segments_since))}
        return self._listed[first, last]

    def _of_epochs(self, first: int, last: int, survivors: Sequence[int], newest: CommitRecord) -> Sequence[int]:
        """Return the versions that may need what was put in some epochs: theirs, and the next, which took it over."""

        def epoch(number: int) -> int:
            return self._needs.record(number, newest).epoch

        return survivors[bisect_left(survivors, first, key=epoch) : bisect_right(survivors, last, key=epoch) + 1]

    def _spare_revived(self, plan: Collection, survivors: Sequence[int]) -> None:
        """Leave out what a restore brought back: any version may need it."""
        packs = {key for key in plan.condemned if is_pack_key(key)}
        if not packs:
            return
        revived = revived_packs(self._history, plan.newest, min(map(pack_epoch, packs)), self._retry)
        risky = packs if revived is None else packs & revived
        for number in reversed(survivors):
            if not risky:
                return
            needed = risky & self._needs.of(number, plan.newest).keys()
            risky -= needed
            for key in needed:
                del plan.condemned[key]


def _beside(dropped: Sequence[int], survivors: Sequence[int]) -> list[int]:
    """Return the versions that are left next to those that are dropped, ascending."""
    places = (bisect_left(survivors, number) for number in dropped)
    return sorted({number for place in places for number in survivors[max(0, place - 1) : place + 1]})
