"""Aligning: making the live tree a given version, keeping what is right already and setting aside what was never saved.

Used when mounting (after a clean end, a crash, another writer's versions, a restart of the machine) and by `.restore`.
Runs with the gate closed, or before the mount is there. Nothing is deleted that could be the only copy of anything: a
file that may hold unsaved bytes is moved to `unsaved/<time>/`.
"""

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptfs.cache.pending import PendingVersion
from ckptfs.capture.copying import copy_data
from ckptfs.capture.journal import JournalState
from ckptfs.capture.reach import reach
from ckptfs.capture.real_paths import RealPaths
from ckptfs.capture.scan import descriptor_path, inode_of
from ckptfs.format.manifest import Entry, Kind, LocalData, ParentFile, Tree
from ckptfs.fs.hydration.hydrator import Stub
from ckptfs.transfer.attributes import apply_attributes, kind_format
from ckptfs.transfer.materialize import TreeWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """The version that the live tree is to become."""

    tree: Tree
    """Files have stored content, except those in `local`."""
    local: dict[bytes, tuple[PendingVersion, int]] = field(default_factory=dict)
    """Path to the pending version and data index that hold the content."""


def with_pending(tree: Tree, versions: Iterable[PendingVersion]) -> Target:
    """Return the newest captured version: the newest in the store with the pending versions on top, in order.

    Raises:
        CorruptObjectError: A pending version's description is damaged.
    """
    local: dict[bytes, tuple[PendingVersion, int]] = {}
    for pending in versions:
        part = pending.part()
        before, local_before = dict(tree), dict(local)
        for path in part.tombstones:
            tree.pop(path, None)
            local.pop(path, None)
        for entry in part.entries:
            local.pop(entry.path, None)
            tree[entry.path] = entry
            for extent in entry.extents:
                if isinstance(extent, LocalData):
                    local[entry.path] = (pending, extent.index)
                elif isinstance(extent, ParentFile):
                    source = before.get(extent.path)
                    content = source.extents if source is not None else ()
                    tree[entry.path] = replace(entry, extents=content)
                    if extent.path in local_before:
                        local[entry.path] = local_before[extent.path]
    return Target(dict(sorted(tree.items())), local)


@dataclass(frozen=True, slots=True)
class Doubts:
    """What about a live tree cannot be relied on when it is aligned."""

    doubtful: set[bytes]
    """Paths, present or not, whose name, kind or bytes may differ from the target's; all others are as the target has
    them.
    """
    precious: set[bytes]
    """Of those, paths whose bytes may be unsaved; the others are deleted where they are in the way."""
    suspect: set[bytes] = field(default_factory=set)
    """Of the doubtful ones, files that look right: they stay, as stubs to be checked before use."""


@dataclass(slots=True)
class Alignment:
    """What aligning did."""

    stubs: list[Stub] = field(default_factory=list)
    made: dict[bytes, int] = field(default_factory=dict)
    """Files that were made anew, with their inodes."""
    linked: list[tuple[int, PendingVersion, int, int]] = field(default_factory=list)
    """Files that share bytes with a pending version: inode, version, index, size."""
    set_aside: int = 0


class Aligner:
    """Aligns one live tree.

    Args:
        live: Its root.
        root_fd: The same, open.
        spare_fd: A directory beside it, emptied by each mount: what is not ready yet is there, and is no file of the
            tree when the process is killed.
        unsaved: Where a directory for what is set aside may be made.
    """

    def __init__(self, live: Path, root_fd: int, spare_fd: int, unsaved: Path) -> None:
        self._live = live
        self._root_fd = root_fd
        self._spare_fd = spare_fd
        self._unsaved = unsaved
        self._result = Alignment()

    @property
    def done(self) -> Alignment:
        """What it has done so far: also when it failed."""
        return self._result

    def align(self, target: Target, doubts: Doubts) -> Alignment:
        """Make the live tree the target. Directories get the target's attributes; kept files stay as they are."""
        suspect, doubtful = doubts.suspect, doubts.doubtful
        self._remove(target.tree, doubtful - suspect, doubts.precious)
        with TreeWriter(self._live, self._spare_fd) as writer:
            first_names: dict[int, bytes] = {}
            for entry in target.tree.values():
                if entry.kind is Kind.DIRECTORY:
                    writer.make_directory(entry)
                    continue
                first = first_names.setdefault(entry.link_id, entry.path) if entry.link_id else entry.path
                if entry.path in suspect:
                    self._add_stub(entry, suspect=True)
                elif entry.path not in doubtful:
                    continue
                elif first != entry.path:
                    writer.make_link(entry.path, first)
                elif entry.kind is Kind.FILE and entry.path in target.local:
                    self._place_pending(entry, *target.local[entry.path])
                else:
                    writer.make_node(entry)
                    if entry.kind is Kind.FILE:
                        self._add_stub(entry, suspect=False)
            writer.finish()
        return self._result

    def refresh_attributes(self, target: Target, paths: Iterable[bytes]) -> None:
        """Give kept paths the target's attributes again."""
        for path in paths:
            entry = target.tree.get(path)
            if entry is not None:
                apply_attributes(descriptor_path(self._root_fd, path), entry)

    def _remove(self, tree: Tree, paths: set[bytes], precious: set[bytes]) -> None:
        """Take away what is in the way, deepest first."""
        destination: Path | None = None
        real_paths = RealPaths(self._root_fd)
        for path in sorted(paths, reverse=True):
            if not path:
                continue
            try:
                status = real_paths.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # nothing is in the way
            if stat.S_ISDIR(status.st_mode):
                wanted = tree.get(path)
                if wanted is None or wanted.kind is not Kind.DIRECTORY:
                    _remove_empty(path, self._root_fd)
            elif path in precious:
                destination = destination or self._make_destination()
                kept = destination / os.fsdecode(path)
                kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.rename(reach(self._root_fd, path), kept, src_dir_fd=self._root_fd)
                self._result.set_aside += 1
            else:
                os.unlink(reach(self._root_fd, path), dir_fd=self._root_fd)
        if destination is not None:
            log.warning("set aside unsaved files=%d directory=%s", self._result.set_aside, destination)

    def _make_destination(self) -> Path:
        destination = self._unsaved / f"{timestamp()}-{secrets.token_hex(2)}"
        destination.mkdir(parents=True, mode=0o700)
        return destination

    def _add_stub(self, entry: Entry, *, suspect: bool) -> None:
        ino = os.stat(reach(self._root_fd, entry.path), dir_fd=self._root_fd, follow_symlinks=False).st_ino
        self._result.made[entry.path] = ino
        if entry.size_bytes:
            self._result.stubs.append(Stub(ino, entry.path, entry, entry.mtime_ns, suspect))

    def _place_pending(self, entry: Entry, pending: PendingVersion, index: int) -> None:
        """Give a name the bytes of a pending version: the same inode under a guard where nobody else has it, else a
        copy.
        """
        data_fd = os.open(pending.data_path(index), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(data_fd)
            if status.st_nlink == 1 and status.st_size == entry.size_bytes:
                where = reach(self._root_fd, entry.path)
                os.link(pending.data_path(index), where, dst_dir_fd=self._root_fd, follow_symlinks=False)
                self._result.linked.append((status.st_ino, pending, index, entry.size_bytes))
            else:
                # it shares its inode with what was set aside, or was appended to after the capture
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(reach(self._root_fd, entry.path), flags, 0o600, dir_fd=self._root_fd)
                try:
                    copy_data(data_fd, fd, entry.size_bytes)
                    os.ftruncate(fd, entry.size_bytes)
                finally:
                    os.close(fd)
        finally:
            os.close(data_fd)
        apply_attributes(descriptor_path(self._root_fd, entry.path), entry)
        self._result.made[entry.path] = os.stat(
            reach(self._root_fd, entry.path), dir_fd=self._root_fd, follow_symlinks=False
        ).st_ino


def doubts_of_known(state: JournalState, tree: Tree, root_fd: int) -> Doubts:
    """Return the doubts about a live tree that is the target but for what its journal says."""
    doubtful = state.content | state.names
    changed = {inode_of(root_fd, path) for path in state.content} - {None}
    groups = {tree[path].link_id for path in doubtful if path in tree} - {0}
    if changed or groups:
        # a write through one name changes them all; a path that got a further name since has its attributes marked
        for path, entry in tree.items():
            may_share = entry.link_id or path in state.attributes
            if may_share and (entry.link_id in groups or inode_of(root_fd, path) in changed):
                doubtful.add(path)
    return Doubts(doubtful, _without_stubs(doubtful, state, root_fd), set())


def doubts_of_unknown(
    state: JournalState, target: Target, root_fd: int, present: set[bytes], *, journal_is_whole: bool
) -> Doubts:
    """Return the doubts about a live tree that is some other version.

    A file that has the size and mtime of the target's and that the journal does not name is suspect: probably right, to
    be checked by its hashes before use. What differs and is not named belongs to the version that the live tree was.

    Args:
        present: All paths of the live tree.
        journal_is_whole: False if the machine has restarted since: then what differs may be unsaved although it is not
        named.
    """
    tree = target.tree
    named = state.content | state.names
    stubs = state.stubs if journal_is_whole else ()
    alike = {path for path in present - named if _looks_like(path, tree.get(path), root_fd, stubs)}
    # what a pending version holds is placed anew, as there are no hashes yet to check it by; and what shares its inode
    # with a version that is pending or aside must not be changed when it turns out to be wrong
    suspect = {
        path for path in alike - target.local.keys() if os.stat(reach(root_fd, path), dir_fd=root_fd).st_nlink == 1
    }
    precious = named & present if journal_is_whole else present - alike
    precious -= {path for path in precious if is_same_node(path, tree.get(path), root_fd)}
    return Doubts(present | set(tree), _without_stubs(precious, state, root_fd), suspect)


def _looks_like(path: bytes, entry: Entry | None, root_fd: int, stubs: Container[int]) -> bool:
    if entry is None or entry.kind is not Kind.FILE or entry.link_id:
        return False
    status = os.stat(reach(root_fd, path), dir_fd=root_fd, follow_symlinks=False)
    if status.st_ino in stubs:
        # what has come of it so far is checked anyway
        return status.st_size == entry.size_bytes and stat.S_ISREG(status.st_mode)
    same = (status.st_size, status.st_mtime_ns) == (entry.size_bytes, entry.mtime_ns)
    return same and stat.S_ISREG(status.st_mode)


def is_same_node(path: bytes, entry: Entry | None, root_fd: int) -> bool:
    """True if a path is no file or directory, and all that it holds is in the target."""
    if entry is None or entry.kind in (Kind.FILE, Kind.DIRECTORY):
        return False
    status = os.stat(reach(root_fd, path), dir_fd=root_fd, follow_symlinks=False)
    if stat.S_IFMT(status.st_mode) != kind_format(entry.kind):
        return False
    return entry.kind is not Kind.SYMLINK or os.readlink(reach(root_fd, path), dir_fd=root_fd) == entry.target


def _without_stubs(paths: set[bytes], state: JournalState, root_fd: int) -> set[bytes]:
    """Leave out files that never had their data here: there is nothing to lose."""
    return {path for path in paths if inode_of(root_fd, path) not in state.stubs} if state.stubs else paths


def timestamp() -> str:
    """Return the time for a directory's name, UTC: 20261123T211500Z."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def _remove_empty(path: bytes, root_fd: int) -> None:
    try:
        os.rmdir(reach(root_fd, path), dir_fd=root_fd)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        # what it holds is not doubtful, so the target has it, and the directory too
        raise OSError(errno.EIO, f"{os.fsdecode(path)!r} is in the way and not empty") from error
