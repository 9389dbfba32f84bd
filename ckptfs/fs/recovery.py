"""Taking up local state when a read-write mount begins: which pending versions may go on, and what the live tree is to
become.

The cases are in docs/CONCURRENCY.md ("Taking up a cache directory").
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import (
    PendingVersion,
    close_pending,
    commit_ids,
    damaged_pending,
    discard_pending,
    is_synced,
    list_pending,
    sweep_pending,
)
from ckptfs.capture.journal import JournalState
from ckptfs.errors import CkptfsError, NoSuchVersionError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.manifest import LocalData
from ckptfs.fs.align import Aligner, Alignment, Doubts, Target, doubts_of_known, doubts_of_unknown, with_pending
from ckptfs.versions.history import History
from ckptfs.versions.writer import Writer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taken:
    """What a mount begins with."""

    head: CommitRecord | None
    """Of the newest version in the store."""
    pending: list[PendingVersion]
    """What is to be uploaded on top of it."""
    target: Target
    version: int
    """The newest captured version: the live tree's."""
    commit_id: str


def is_our_lineage(session: dict[str, Any], writer: Writer) -> bool:
    """True if nobody wrote to the store between the last session of this cache directory and this one.

    Args:
        session: As the last session left it.
        writer: Of this session.
    """
    last = session.get("epoch")
    if session.get("store_id") != writer.history.store_id or not isinstance(last, int):
        return False
    claims = claims_of(session)
    if last >= writer.epoch - 1:
        return last == writer.epoch - 1
    if writer.epoch - 1 - last > len(claims):
        return False
    # a session of ours that died between its fence and writing that down made a fence and nothing else
    record = writer.history.record(writer.newest.seq - 1)
    while record.epoch > last:
        if record.kind is CommitKind.SAVE or record.seq == 1:
            return False
        if record.kind is CommitKind.FENCE and [record.host, record.pid] not in claims:
            return False
        record = writer.history.record(record.seq - 1)
    return True


def claims_of(session: dict[str, Any]) -> list[list[Any]]:
    """Return [host, pid] of every session that has asked for the store since the last one that got it."""
    claims = session.get("claims")
    return claims if isinstance(claims, list) else []


def take_up(cache: CacheDirectory, history: History, *, ours: bool, boot: str) -> Taken:
    """Decide about the pending versions of a cache directory.

    Those that can enter history stay; the others are moved to aside/ and said.

    Args:
        ours: Whether they may (is_our_lineage).
        boot: The machine's boot id: after a restart, only what was synced is what was captured.
    """
    sweep_pending(cache.pending)
    head = history.head()
    version, commit_id = (head.version, head.commit_id) if head is not None else (0, "")
    kept: list[PendingVersion] = []
    broken: str | None = None if ours else "another writer took the store over"
    for pending in _all_pending(cache):
        if pending.version <= version and not kept:
            if _commit_id_of(history, pending.version) == pending.header.commit_id:
                discard_pending(pending)
                continue
            broken = broken or "another version has its number"
        if broken is None and pending.header.boot != boot and not is_synced(pending):
            broken = "the machine restarted before its data were on disk"
        if broken is None and pending.version != version + 1:
            broken = f"version {version + 1} is missing"
        if broken is None:
            broken = damage_of(pending)
        if broken is not None:
            move_aside(cache, pending, broken)
            continue
        kept.append(close_pending(pending))
        version, commit_id = pending.version, pending.header.commit_id
    tree = history.tree(head) if head is not None else {}
    return Taken(head, kept, with_pending(tree, kept), version, commit_id)


def is_kept(cache: CacheDirectory, history: History, version: int, commit_id: str) -> bool:
    """True if what a version holds can be had from the store or from aside/, or could until it was pruned.

    It cannot when the store was put back to an older state: then the live tree may be all that is left of it.
    """
    if not version or commit_id in commit_ids(cache.aside):
        return True
    try:
        return history.version(version, even_dropped=True).commit_id == commit_id
    except NoSuchVersionError:
        return False


def align_live_tree(
    aligner: Aligner,
    taken: Taken,
    state: JournalState | None,
    *,
    is_kept: Callable[[int, str], bool],
    ours: bool,
    boot: str,
    root_fd: int,
    walk: Callable[[], set[bytes]],
) -> Alignment:
    """Make the live tree the newest captured version.

    Args:
        state: What the journal says, None if there is none.
        is_kept: Tells of a version, by number and commit id, whether it can be had from anywhere else.
        ours: Whether nobody else wrote to the store since the journal was begun: one that does not know the newest
            version has lost its end then.
        walk: Returns all paths of the live tree.
    """
    tree = taken.target.tree
    if state is None:
        present = walk()
        return aligner.align(taken.target, Doubts(present | set(tree), present))
    if state.intended == (taken.version, taken.commit_id):
        state.adopt_intended()
    if (state.version, state.commit_id, state.boot) == (taken.version, taken.commit_id, boot):
        doubts = doubts_of_known(state, tree, root_fd)
    else:
        is_whole = state.boot == boot and not (ours and state.version < taken.version)
        is_whole = is_whole and is_kept(state.version, state.commit_id)
        doubts = doubts_of_unknown(state, taken.target, root_fd, walk(), journal_is_whole=is_whole)
    result = aligner.align(taken.target, doubts)
    aligner.refresh_attributes(taken.target, (state.attributes | doubts.suspect) - (doubts.doubtful - doubts.suspect))
    return result


def move_aside(cache: CacheDirectory, pending: PendingVersion, why: str) -> None:
    """Keep a version that can never enter history."""
    target = _free_name(cache.aside / pending.directory.name)
    pending.directory.rename(target)
    log.warning("kept aside version=%d reason=%r directory=%s", pending.version, why, target)


def _free_name(path: Path) -> Path:
    """Return a path that nothing has, the one given if it is free."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def damage_of(pending: PendingVersion) -> str | None:
    """Return why a pending version can never be uploaded, None if nothing speaks against it."""
    try:
        for entry in pending.part().entries:
            for extent in entry.extents:
                if isinstance(extent, LocalData):
                    size_bytes = os.stat(pending.data_path(extent.index)).st_size
                    if size_bytes < extent.size_bytes:
                        return f"{os.fsdecode(entry.path)!r} has {size_bytes} of {extent.size_bytes} bytes"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except CkptfsError as error:
        return f"its description is damaged: {error.fact}"
    return None


def _all_pending(cache: CacheDirectory) -> list[PendingVersion]:
    for directory, why in damaged_pending(cache.pending):
        # those after it find their predecessor missing
        directory.rename(_free_name(cache.aside / f"damaged-{directory.name}"))
        log.error("kept aside a pending version that cannot be read directory=%s reason=%r", directory.name, why)
    return list_pending(cache.pending)


def _commit_id_of(history: History, version: int) -> str | None:
    try:
        return history.version(version).commit_id
    except NoSuchVersionError:
        return None
