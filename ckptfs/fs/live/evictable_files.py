"""The live files that a durable version holds as they are: they may be turned back into stubs, and be fetched again.

Rules:
    E1  a file goes only while the gate is closed, and only if nothing is marked that could have changed it, neither now
        nor in a version that is pending
    E2  nobody has it open or mapped. A mapping of a file that the kernel reads past us outlives its handle unseen; a
        write lease (fcntl(2)), which the kernel gives to the only one who has a file open or mapped, tells
    E3  the journal calls it a stub before its data go, and its size and mtime are never others: killed at any moment it
        is a stub whose chunks are looked at before they are fetched
"""

import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from ckptfs.cache.pending import list_pending
from ckptfs.capture.capture import Capturer
from ckptfs.errors import CkptfsError
from ckptfs.format.manifest import Chunk, Entry, Hole, Kind, Tree
from ckptfs.fs.hydration.eviction import Candidate
from ckptfs.fs.hydration.filling import punch
from ckptfs.fs.hydration.hydrator import Stub
from ckptfs.fs.leases import NOBODY_ELSE, is_granted
from ckptfs.fs.live.open_inodes import OpenInodes
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.times import set_times
from ckptfs.versions.history import History

log = logging.getLogger(__name__)


class EvictableLiveFiles:
    """Implements eviction.EvictableFiles.

    Args:
        durable: Returns the number of the newest version that is durable, with all before it; 0 if there is none.
        leases_tell: False where a mapping may be unseen even by a lease.
        goes_past: Tells whether the kernel reads files past us; if not, a mapping keeps its handle open.
    """

    def __init__(
        self,
        live: LiveTree,
        open_inodes: OpenInodes,
        capturer: Capturer,
        history: History,
        pending_root: Path,
        durable: Callable[[], int],
        leases_tell: bool,
        goes_past: Callable[[], bool],
    ) -> None:
        self._live = live
        self._open_inodes = open_inodes
        self._capturer = capturer
        self._history = history
        self._pending_root = pending_root
        self._durable = durable
        self._leases_tell = leases_tell
        self._goes_past = goes_past
        self._tree: Tree = {}
        self._tree_version = 0
        self._epoch = 0
        """Of the change set, when `_tree` and `_pending` were right."""
        self._pending: set[bytes] = set()
        """Paths that pending versions name."""

    def most_bytes(self) -> int:
        """Return how much there may be: the files of the newest captured version."""
        return self._capturer.sizes.total_bytes

    def look(self) -> tuple[int, Sequence[Candidate]]:
        """Return the bytes of all files that are as the newest durable version has them, and those that may go."""
        changes = self._live.changes
        self._epoch = changes.epoch
        try:
            self._load()
        except CkptfsError as error:
            log.warning("could not look at what is durable error=%r", error.fact)
            return self.most_bytes(), ()
        total_bytes, candidates, seen = 0, [], set()
        for path, entry in self._tree.items():
            if entry.kind is not Kind.FILE or not entry.size_bytes or not self._is_clean(path, entry):
                continue
            try:
                status = self._live.lstat(path)
            except OSError:
                continue  # it has lost this name since
            size_bytes = status.st_blocks * 512
            if not size_bytes or status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            total_bytes += size_bytes
            if self._may_go(entry) and self._is_unused(status):
                used_ns = self._open_inodes.used_ns.get(status.st_ino, status.st_atime_ns)
                candidates.append(Candidate(used_ns, size_bytes, path))
        return total_bytes, candidates

    def evict(self, path: bytes) -> bool:
        """Make a file a stub; return False if it is to stay."""
        live = self._live
        try:
            with live.gate.exclusive():
                entry = self._tree.get(path)
                if entry is None or live.changes.epoch != self._epoch or not self._is_clean(path, entry):
                    return False
                if not self._may_go(entry):
                    return False
                status = live.lstat(path)
                if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size_bytes:
                    return False
                return self._is_unused(status) and self._empty(path, status, entry)
        except OSError as error:
            log.warning("could not evict path=%r error=%r", os.fsdecode(path), str(error))
            return False

    def _load(self) -> None:
        # in this order: what leaves pending/ in between is durable, and counts as pending all the same
        pending = list_pending(self._pending_root)
        self._pending = set()
        for version in pending:
            try:
                part = version.part()
            except FileNotFoundError:
                continue  # durable by now
            self._pending.update(part.tombstones)
            self._pending.update(entry.path for entry in part.entries)
        number = self._durable()
        if number != self._tree_version:
            self._tree = self._history.tree(self._history.version(number)) if number else {}
            self._tree_version = number

    def _is_clean(self, path: bytes, entry: Entry) -> bool:
        """E1, as far as the path tells."""
        if path in self._pending or path in self._live.changes.current.paths:
            return False
        return all(isinstance(extent, Chunk | Hole) for extent in entry.extents)

    def _may_go(self, entry: Entry) -> bool:
        # with several names, what changed it may be marked by another
        return not entry.torn and not entry.link_id

    def _is_unused(self, status: os.stat_result) -> bool:
        """E2, but for mappings; and no other name, of this tree or of a pending version, leads to it."""
        live, ino = self._live, status.st_ino
        stub = live.hydrator.get(ino)
        if stub is not None:
            return stub.filling is None or not stub.filling.users
        is_shared = status.st_nlink != 1 or live.links.count(ino) != 1 or live.guards.is_guarded(ino)
        return not is_shared and self._open_inodes.find(ino) is None and ino not in live.changes.current.content

    def _empty(self, path: bytes, status: os.stat_result, entry: Entry) -> bool:
        live = self._live
        stub = live.hydrator.get(status.st_ino)
        fd = os.open(live.at(path), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=live.root_fd)
        try:
            if stub is None:
                if not self._is_alone(fd):
                    return False
                live.changes.journal.stubs([status.st_ino])
                stub = Stub(status.st_ino, path, entry, status.st_mtime_ns, suspect=False)
            live.changes.times.keep(status)
            # first, for whoever asks for its times is not held back by the gate
            live.hydrator.emptied(stub)
            punch(fd, 0, status.st_size)
            set_times(fd, None, None, stub.mtime_ns)
        finally:
            os.close(fd)
        return True

    def _is_alone(self, fd: int) -> bool:
        """True if nobody but us has a file open or mapped (E2)."""
        if not self._leases_tell and self._goes_past():
            return False
        granted = is_granted(fd, NOBODY_ELSE)
        return granted if granted is not None else not self._goes_past()
