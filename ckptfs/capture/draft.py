"""Drafting a version: from changed paths to entries and tombstones, and the links and copies that hold their bytes."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptfs.cache.pending import disk_bytes
from ckptfs.capture.change_times import ChangeTimes
from ckptfs.capture.changes import ChangeSet, LinkGroups
from ckptfs.capture.copying import copy_data
from ckptfs.capture.fitting import fit
from ckptfs.capture.reach import reach
from ckptfs.capture.real_paths import RealPaths
from ckptfs.capture.scan import make_entry
from ckptfs.format.manifest import Entry, Extent, LocalData, ParentFile, Part

# A file that changes under the copy is copied again: a writer that pauses as long as a copy takes lets one of 3 succeed
_COPY_ATTEMPTS = 3


# A name that leads to another file whenever it is opened: not one that is renamed over, which takes microseconds
_OPEN_ATTEMPTS = 50


class _ReplacedError(Exception):
    """A name leads to another file than it did when it was looked at."""


@dataclass(slots=True)
class Draft:
    """What changed, being written down with the gate closed.

    Args:
        root_fd: The live tree.
        directory: `data/` in it takes the bytes.
        changes: Relative to the version before.
        known: The paths of the version before.
        links, link_ids: Names and ids of inodes with several names; new ids are added.
        unseen: Inodes that may change at any moment, gate or not: they are copied, not linked.
        mapped: Those of them that stores into a mapping may change.
        torn: Inodes that may hold a mixture of moments; those that never hold still are added.
        times: Told of every file that is linked.
    """

    root_fd: int
    directory: Path
    changes: ChangeSet
    known: Collection[bytes]
    links: LinkGroups
    link_ids: dict[int, int]
    unseen: Container[int]
    mapped: Container[int]
    torn: set[int]
    times: ChangeTimes
    mtime_ns: Callable[[os.stat_result], int]
    """Of a file, given what it looks like: one that is being given its data looks newer than it is."""
    names_move: bool = False
    """Names may come and go meanwhile: nothing holds programs back."""
    lost: set[bytes] = field(default_factory=set)
    """Paths that are not in the draft because what they are in had gone; see `fit`."""
    shared: list[tuple[int, int, int]] = field(default_factory=list)
    """(inode, index, size) of every file that the draft shares with the live tree."""
    changed_bytes: int = 0
    """Sum of the sizes of the files under `data/`."""
    kept_bytes: int = 0
    """Local disk that these take, shared with the live tree or not."""
    looks: dict[int, os.stat_result] = field(default_factory=dict)
    """Of the unseen inodes, what those that are in the draft looked like when their bytes were taken."""
    _taken: int = 0
    """Files under `data/`."""
    _groups: dict[int, Entry] = field(default_factory=dict)
    """Inode with several names to the entry of the name that was met first."""
    _replaced: dict[bytes, int] = field(default_factory=dict)
    """Path to how often it was another file when it was opened."""
    _data_prefix: bytes = b""
    """Plain bytes, made once: pathlib would take a fifth of the capture of 1,000 files."""

    def __post_init__(self) -> None:
        self._data_prefix = os.fsencode(self.directory) + b"/data/"

    def describe(self) -> Part:
        """Return all changed entries and tombstones.

        Raises:
            OSError: No room, or the disk is failing.
        """
        entries: dict[bytes, Entry] = {}
        # a name of several may be looked at twice where nothing holds programs back, and be there once
        tombstones: set[bytes] = set()
        waiting = list(self.changes.paths)
        real_paths = RealPaths(self.root_fd)
        while waiting:
            path = waiting.pop()
            if path in entries:
                continue
            try:
                # a directory may have become a symlink to another, where the same names are
                status = real_paths.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                if path in self.known:
                    tombstones.add(path)
                continue
            try:
                entries[path] = self._entry(path, status)
            except _ReplacedError as error:
                # only where nothing holds programs back meanwhile
                self._replaced[path] = self._replaced.get(path, 0) + 1
                if self._replaced[path] == _OPEN_ATTEMPTS:
                    raise OSError(errno.EBUSY, "it is replaced all the time", os.fsdecode(path)) from error
                waiting.append(path)
                continue
            # what one name of an inode shows, all do
            waiting.extend(name for name in self.links.names(status.st_ino) if name not in entries)
        tombstones -= entries.keys()
        if self.names_move:
            self.lost = fit(entries, tombstones, self.known)
        return Part(tuple(entries[path] for path in sorted(entries)), tuple(sorted(tombstones)))

    def _entry(self, path: bytes, status: os.stat_result) -> Entry:
        ino = status.st_ino
        if not self.links.names(ino):
            return self._entry_of(path, status, link_id=0)
        # what one name shows, all must, also of a file that changes meanwhile
        if ino not in self._groups:
            link_id = self.link_ids.setdefault(ino, secrets.randbits(63) | 1)
            self._groups[ino] = self._entry_of(path, status, link_id)
        return replace(self._groups[ino], path=path)

    def _entry_of(self, path: bytes, status: os.stat_result, link_id: int) -> Entry:
        ino = status.st_ino
        extents: tuple[Extent, ...] = ()
        if ino in self.unseen and ino in self.changes.content:
            # of one whose content is the former version's it stays what it was: something may have come since the
            # change set was complete
            self.looks[ino] = status
        if stat.S_ISREG(status.st_mode) and status.st_size:
            if ino in self.changes.content:
                index, status = self._take(path, status)
                extents = (LocalData(status.st_size, index),) if status.st_size else ()
            else:
                origin = self.changes.origins.get(ino, path)
                extents = (ParentFile(status.st_size, origin),) if isinstance(origin, bytes) else origin
        mtime_ns = self.mtime_ns(status)
        return make_entry(
            self.root_fd, path, status, mtime_ns=mtime_ns, extents=extents, link_id=link_id, torn=ino in self.torn
        )

    def _take(self, path: bytes, status: os.stat_result) -> tuple[int, os.stat_result]:
        """Put a file's bytes under `data/`; return the index and the status that goes with them."""
        ino, index = status.st_ino, self._taken
        target = b"%s%d" % (self._data_prefix, index)
        if ino in self.unseen:
            status = self.looks[ino] = self._copy(path, ino, target)
        else:
            self.times.keep(status)
            os.link(reach(self.root_fd, path), target, src_dir_fd=self.root_fd, follow_symlinks=False)
            self.shared.append((ino, index, status.st_size))
        self._taken += 1
        self.changed_bytes += status.st_size
        self.kept_bytes += disk_bytes(status)
        return index, status

    def _copy(self, path: bytes, ino: int, target: bytes) -> os.stat_result:
        """Copy a file that may be written to meanwhile, until it held still for one copy, or the attempts are over.

        Returns:
            What it looked like before: what is done to it from then on makes it look different.

        Raises:
            _ReplacedError: It is not the file that the path led to a moment ago.
        """
        # O_NONBLOCK: what was a file a moment ago may be a FIFO now
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            source_fd = os.open(reach(self.root_fd, path), flags, dir_fd=self.root_fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise _ReplacedError from error
            raise
        try:
            if os.fstat(source_fd).st_ino != ino:
                raise _ReplacedError
            for _ in range(_COPY_ATTEMPTS):
                before = os.fstat(source_fd)
                if before.st_ino in self.mapped:
                    # only the first store into a page sets the times, until it is written back
                    os.fdatasync(source_fd)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                target_fd = os.open(target, flags, 0o600)
                try:
                    # A write(2) that has set the times and goes on is waited for: by the clone, and else by SEEK_DATA,
                    # which comes before the first byte is copied
                    is_clone = copy_data(source_fd, target_fd, before.st_size)
                    size_bytes = os.fstat(target_fd).st_size
                finally:
                    os.close(target_fd)
                if is_clone:
                    return _with_size(before, size_bytes)
                if _look(before) == _look(os.fstat(source_fd)):
                    return before
        finally:
            os.close(source_fd)
        self.torn.add(before.st_ino)
        return before


def _with_size(status: os.stat_result, size_bytes: int) -> os.stat_result:
    if status.st_size == size_bytes:
        return status
    named = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_rdev")
    fields = (*status[: stat.ST_SIZE], size_bytes, *status[stat.ST_SIZE + 1 :])
    return os.stat_result(fields, {name: getattr(status, name) for name in named})


def _look(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
