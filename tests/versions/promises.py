"""What must be so of a store whatever happened to it: what users were told, and what the format promises."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from ckptfs.errors import CkptfsError
from ckptfs.format.commit import CommitKind, CommitRecord, PartRef
from ckptfs.format.keys import SEGMENT_PREFIX, is_pack_key, pack_epoch
from ckptfs.versions.chain import check_successor
from ckptfs.versions.history import History
from ckptfs.versions.ranges import contains
from tests.versions.memory_store import MemoryStore
from tests.versions.scene import needed_by_all, objects_of


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


def require(holds: bool, fact: str) -> None:
    """Raise BrokenPromiseError unless something holds."""
    if not holds:
        raise BrokenPromiseError(fact)


@dataclass
class Told:
    """What users were told, and what only the simulation knows."""

    saved: dict[str, tuple[int, int]] = field(default_factory=dict)
    """commit_id to version and seq."""
    tagged: dict[str, int] = field(default_factory=dict)
    needs: dict[tuple[str, tuple[PartRef, ...]], set[str]] = field(default_factory=dict)
    """Objects that a version names, by its commit_id and parts: an attempt may have been made anew."""
    put_at: dict[str, int] = field(default_factory=dict)
    """As of how many records each object was put, for the last time."""


def check(store: MemoryStore, told: Told) -> None:
    """Raise BrokenPromiseError unless history is as it must be, and every version in it is whole."""
    history = History(store, "")
    newest = history.newest()
    records = [history.record(seq) for seq in range(1, newest.seq + 1)] if newest is not None else []
    for before, record in zip([None, *records], records, strict=False):
        try:
            check_successor(before, record)
        except CkptfsError as error:
            raise BrokenPromiseError(str(error)) from error
    repeated = [commit_id for commit_id, count in Counter(record.commit_id for record in records).items() if count > 1]
    require(not repeated, f"records committed twice: {repeated}")
    _check_saves([record for record in records if record.kind is CommitKind.SAVE], records, told)
    _check_dropped(records)
    _check_condemned(records, told)
    for name, version in told.tagged.items():
        require(history.tags().get(name) == version, f"tag {name} of version {version} is lost")
    missing = needed_by_all(store) - objects_of(store)
    require(not missing, f"versions need what is not there: {sorted(missing)}")


def check_no_litter(store: MemoryStore, told: Told) -> None:
    """Raise BrokenPromiseError if an object is left that nobody needs.

    But for those that a fenced writer put when the epoch after its own had ended too: nobody looks for them any more.
    """
    history = History(store, "")
    newest = history.newest()
    for key in objects_of(store) - needed_by_all(store) if newest is not None else ():
        epoch = pack_epoch(key) if is_pack_key(key) else int(key.removeprefix(SEGMENT_PREFIX)[:10])
        came_late = history.record(told.put_at[key]).epoch >= epoch + 2 if key in told.put_at else False
        require(came_late or epoch == newest.epoch, f"{key} is left though nobody needs it")


def _check_saves(saves: list[CommitRecord], records: list[CommitRecord], told: Told) -> None:
    by_id = {record.commit_id: record for record in saves}
    for commit_id, (version, seq) in told.saved.items():
        record = by_id.get(commit_id)
        require(record is not None, f"acknowledged version {version} (commit {seq}) is lost")
        require(record is None or (record.version, record.seq) == (version, seq), f"version {version} has moved")
    owner = {record.epoch: record.host for record in records if record.kind is CommitKind.FENCE}
    previous: CommitRecord | None = None
    for record in saves:
        require(record.host == owner[record.epoch], f"{record.host} committed {record.version} after it was fenced")
        first = previous.version + 1 if previous is not None else 1
        skipped = range(first, record.version)
        require(all(contains(record.gaps, number) for number in skipped), f"numbers {skipped} are missing")
        if isinstance(record.note, dict) and "base" in record.note:
            base = previous.commit_id if previous is not None else None
            require(record.note["base"] == base, f"version {record.version} was made against another version")
        previous = record


def _check_dropped(records: list[CommitRecord]) -> None:
    """Check that nothing was dropped that was not to be, as of the record before (prune.G2)."""
    tags: dict[str, int] = {}
    dropped: tuple[tuple[int, int], ...] = ()
    for before, record in pairwise(records):
        if record.kind is CommitKind.TAG:
            tags = dict(record.tag_map)
            for name, version in tags.items():
                require(not contains(dropped, version), f"tag {name} names version {version}, which was dropped")
        if record.kind is CommitKind.GC:
            fresh = {number for low, high in record.dropped for number in range(low, high + 1)}
            fresh -= {number for low, high in dropped for number in range(low, high + 1)}
            require(before.version not in fresh, f"the newest version {before.version} was dropped")
            require(not fresh & set(tags.values()), f"tagged versions of {fresh} were dropped")
            require(not fresh & {number for number, _ in before.pins}, f"pinned versions of {fresh} were dropped")
            dropped = record.dropped


def _check_condemned(records: list[CommitRecord], told: Told) -> None:
    """Check that no version names what was condemned before it was committed (C5)."""
    condemned: set[str] = set()
    for record in records:
        condemned.update(record.condemned)
        if record.kind is CommitKind.SAVE:
            named = told.needs.get((record.commit_id, record.parts), set())
            require(condemned.isdisjoint(named), f"version {record.version} names a condemned object")
