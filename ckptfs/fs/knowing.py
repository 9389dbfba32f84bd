"""Knowing a live tree that came to be without its mount: aligned, restored, or left by a process that was killed.

Link groups, link ids, stubs and what is shared with pending versions are otherwise kept up to date by the operations
that change them.
"""

import os
from collections.abc import Iterable

from ckptfs.cache.pending import PendingVersion, disk_bytes
from ckptfs.capture.capture import Capturer
from ckptfs.capture.guards import Slot
from ckptfs.capture.journal import JournalState
from ckptfs.capture.scan import inode_of
from ckptfs.format.manifest import Kind, LocalData, Tree
from ckptfs.fs.align import Alignment, Target
from ckptfs.fs.going_on import know_again
from ckptfs.fs.hydration.hydrator import Stub
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.recovery import Taken
from ckptfs.fs.uploads import Uploads


def know_aligned(
    live: LiveTree, capturer: Capturer, target: Target, result: Alignment, *, kept_stubs: set[int]
) -> None:
    """Bring link groups, link ids and stubs in line with an aligned live tree.

    Args:
        target: What it was aligned with.
        kept_stubs: Inodes that were stubs before, and are if they are still there.
    """
    live.links.clear()
    first_names: dict[int, bytes] = {}
    stubs = list(result.stubs)
    new_inodes = {stub.ino for stub in stubs}
    for path, entry in target.tree.items():
        if entry.kind is Kind.DIRECTORY or not (entry.link_id or kept_stubs):
            continue
        ino = inode_of(live.root_fd, path)
        if ino is None:
            continue  # a device that we may not make
        if entry.link_id:
            capturer.link_ids[ino] = entry.link_id
            first = first_names.setdefault(entry.link_id, path)
            if first != path:
                live.links.link(ino, first, path)
        if ino in kept_stubs and ino not in new_inodes:
            new_inodes.add(ino)
            stubs.append(Stub(ino, path, entry, entry.mtime_ns, suspect=True))
    live.hydrator.add(stubs)


def know_left(live: LiveTree, capturer: Capturer, taken: Taken, state: JournalState, restored: Tree | None) -> int:
    """Know again what the process before this one knew of its live tree; return how many files are stubs.

    Args:
        state: What its journal says.
        restored: The tree that the live one was restored to since.

    Raises:
        CacheError: Journal and newest version do not fit together.
    """
    known = know_again(taken, state, restored, live.root_fd)
    live.changes.go_on(state, known.content, known.origins)
    for ino, names in known.links.items():
        for name in names[1:]:
            live.links.link(ino, names[0], name)
    capturer.link_ids.update(known.link_ids)
    live.hydrator.add(known.stubs)
    return len(known.stubs)


def know_pending(live: LiveTree, uploads: Uploads, versions: Iterable[PendingVersion]) -> None:
    """Guard what pending versions share with the live tree, and have them uploaded."""
    for pending in versions:
        slot = Slot(pending.directory)
        kept_bytes: dict[int, int] = {}
        for entry in pending.part().entries:
            for extent in entry.extents:
                if isinstance(extent, LocalData):
                    status = os.stat(pending.data_path(extent.index))
                    live.guards.add(status.st_ino, slot, extent.index, extent.size_bytes)
                    live.changes.times.keep(status)
                    kept_bytes[extent.index] = disk_bytes(status)
        uploads.captured(pending, slot, sum(kept_bytes.values()))
