"""Restoring a version, or some of its paths, into a directory.

Each file is written under a temporary name, checked chunk by chunk, and renamed when it is whole: a reader of the
target sees the old file or the new one. A file that holds the right bytes already is not fetched, and one that a
restore before this one had begun is completed (leftovers.py). What the target holds besides stays.
"""

import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ckptfs.errors import CkptfsError, StoreUnavailableError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Chunk, Entry, Kind, Tree
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.transfer.fetch import Fetcher, FetchJob
from ckptfs.transfer.leftovers import Partial, is_hole, is_worth_keeping, take_up
from ckptfs.transfer.materialize import TreeWriter
from ckptfs.transfer.selection import all_names, first_names, is_further_link, select
from ckptfs.transfer.temporary import content_token
from ckptfs.versions.history import History

OnProgress = Callable[[int, int], None]
"""Gets bytes done and bytes in all, of file data; called by several threads, one at a time."""


# names, sizes and numbers that other filesystems hold and the target's does not: what else there is can be restored
_OWN_ERRORS = dict.fromkeys(
    (errno.EFBIG, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EMLINK),
    "restore it to a filesystem that holds such files",
) | {errno.ENOTEMPTY: "a directory that holds something is in its place: move that away"}


class IncompleteRestoreError(CkptfsError):
    """Some files could not be restored; the others were."""

    def __init__(self, failures: Sequence[tuple[bytes, CkptfsError]], files: int) -> None:
        first = failures[0][1]
        super().__init__(f"{len(failures)} of {files} files were not restored; {first.fact}", hint=first.hint)
        self.failures = tuple(failures)
        """Path and reason of each."""


def restore(
    history: History,
    store: Store,
    record: CommitRecord,
    target: Path,
    paths: Sequence[bytes] = (),
    on_progress: OnProgress = lambda done, total: None,
    *,
    keep_target: bool = False,
) -> Tree:
    """Write a version into a directory.

    Args:
        history: Of the store.
        store: Where the packs are.
        record: The save record of the version.
        target: Made if it is missing.
        paths: What to restore: each with all below it, at its place below the target. Directories on the way are made
            as the version has them, but those that exist are left alone. None given: everything, and the target gets
            the root's own attributes.
        on_progress: Told how far it is.
        keep_target: The target keeps its own attributes in any case.

    Returns:
        The entries that were asked for.

    Raises:
        InvalidInputError: The version has no such path.
        IncompleteRestoreError: The data of some files could not be had, or the target cannot hold them; all else is
            restored.
        NoSuchVersionError: The same, for the version was pruned meanwhile.
        CorruptObjectError: The version's manifest is damaged.
        StoreError: The manifest cannot be had.
        OSError: The target cannot be written to; names the full path.
    """
    chosen, ancestors = select(history.tree(record), paths, record.version)
    first = first_names(chosen)
    files = [entry for entry in chosen.values() if entry.kind is Kind.FILE]
    with TreeWriter(target) as writer:
        for path in sorted([*ancestors, *(path for path, entry in chosen.items() if entry.kind is Kind.DIRECTORY)]):
            keep_existing = path in ancestors or (keep_target and not path)
            writer.make_directory(ancestors.get(path) or chosen[path], keep_existing=keep_existing)
        contents = _FileContents(writer, Fetcher(store), on_progress, take_up(writer, chosen), all_names(chosen))
        contents.write([entry for entry in files if not is_further_link(entry, first)])
        failures = dict(contents.failures)
        for entry in chosen.values():
            is_link = is_further_link(entry, first)
            if is_link and (error := failures.get(first[entry.link_id])) is not None:
                failures[entry.path] = error
                continue
            try:
                if is_link:
                    writer.make_link(entry.path, first[entry.link_id])
                elif entry.kind not in (Kind.FILE, Kind.DIRECTORY):
                    writer.make_node(entry)
            except OSError as failure:
                failures[entry.path] = _own_failure(entry.path, failure)
        writer.finish()
    if failures:
        error = IncompleteRestoreError(sorted(failures.items()), len(files))
        history.require(record, error)
        raise error
    return chosen


def _own_failure(path: bytes, error: OSError) -> CkptfsError:
    """Return why one entry cannot be in the target. Raises the error if it does not concern that entry alone."""
    if error.errno not in _OWN_ERRORS:
        raise error
    hint = _OWN_ERRORS[error.errno]
    failure = CkptfsError(f"{os.fsdecode(path)!r} cannot be in the target: {error.strerror}", hint=hint)
    failure.errno = error.errno
    failure.__cause__ = error
    return failure


class _FileContents:
    """Writes the regular files of one run.

    Args:
        partials: By path, what there is already of a file.
        names: By link id, all names of a group of hard links.
    """

    def __init__(
        self,
        writer: TreeWriter,
        fetcher: Fetcher,
        on_progress: OnProgress,
        partials: Mapping[bytes, Partial],
        names: Mapping[int, Sequence[bytes]],
    ) -> None:
        self._writer = writer
        self._partials = partials
        self._names = names
        self._fetcher = fetcher
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = 0
        self.failures: dict[bytes, CkptfsError] = {}

    def write(self, entries: Sequence[Entry]) -> None:
        """Write files, each under its first name. Raises OSError: the target cannot be written to."""
        self._total_bytes = sum(_data_bytes(entry) for entry in entries)
        self._add_done(0)
        files: dict[bytes, _NewFile] = {}
        jobs = []
        for entry in entries:
            partial = self._partials.get(entry.path)
            if self._is_there(entry):
                self._add_done(_data_bytes(entry))
                if partial is not None:
                    self._writer.remove(partial.temporary)
            else:
                file = files[entry.path] = _NewFile(self._writer, entry, partial.temporary if partial else b"")
                job = FetchJob(entry, file.write, present=partial.chunks if partial else frozenset())
                jobs.append(job)
                self._add_done(_data_bytes(entry) - sum(chunk.size_bytes for _, chunk in job.chunks()))

        def done(job: FetchJob, error: CkptfsError | None) -> None:
            path = job.entry.path
            try:
                if error is None:
                    files[path].publish()
                    return
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__
            except OSError as cause:
                # a full disk stays full for the files that follow
                error = _own_failure(path, cause)
            if not isinstance(error, StoreUnavailableError):
                files[path].discard()
            with self._lock:
                self.failures[path] = error

        try:
            self._fetcher.fetch(jobs, done, self._add_done)
        except Exception:
            for file in files.values():
                file.discard()
            raise
        finally:
            # interrupted, or without the store: the next restore goes on with what has come
            for file in files.values():
                file.leave()

    def _add_done(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            self._on_progress(self._done_bytes, self._total_bytes)

    def _is_there(self, entry: Entry) -> bool:
        """True if the target has the file already, byte by byte and hole by hole, with no name that the version does
        not give it; it gets its attributes.
        """
        try:
            fd = self._writer.open_file(entry.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            if status.st_size != entry.size_bytes or status.st_nlink != self._count_names(entry, status):
                return False
            if not has_content(fd, entry):
                return False
        finally:
            os.close(fd)
        try:
            self._writer.refresh_attributes(entry)
        except PermissionError:
            # somebody else's: one of our own takes its place
            return False
        return True

    def _count_names(self, entry: Entry, status: os.stat_result) -> int:
        """Return how many of the names that the version gives a file lead to one in the target."""
        if status.st_nlink == 1:
            return 1
        return sum(self._writer.leads_to(path, status) for path in self._names.get(entry.link_id, (entry.path,)))


class _NewFile:
    """A file that is being written under a temporary name, which is made when the first bytes come.

    Args:
        temporary: The path of one that has some of its bytes already; b"" if there is none.
    """

    def __init__(self, writer: TreeWriter, entry: Entry, temporary: bytes) -> None:
        self._writer = writer
        self._entry = entry
        self._lock = threading.Lock()
        self._temporary = temporary
        self._fd = -1
        """Kept open only for a file of one chunk, which is published by the thread that writes it: so few are."""

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write at an offset."""
        fd = self._open()
        try:
            view = memoryview(data)
            with self._writer.naming(self._entry.path):
                while view:
                    size = os.pwrite(fd, view, offset_bytes)
                    view = view[size:]
                    offset_bytes += size
        finally:
            if fd != self._fd:
                os.close(fd)

    def publish(self) -> None:
        """Give the complete file its name."""
        fd = self._open()
        try:
            self._writer.publish(self._temporary, self._entry, fd)
            self._temporary = b""
        finally:
            os.close(fd)
            self._fd = -1

    def leave(self) -> None:
        """Write no more. What was not published stays if the next run has something of it, else it is removed."""
        if not is_worth_keeping(self._entry):
            self.discard()

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        with self._lock:
            temporary, self._temporary = self._temporary, b""
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if temporary:
            self._writer.remove(temporary)

    def _open(self) -> int:
        with self._lock:
            if self._fd >= 0:
                return self._fd
            if self._temporary:
                return self._writer.open_file(self._temporary, os.O_WRONLY)
            token = content_token(self._entry) if is_worth_keeping(self._entry) else None
            self._temporary, fd = self._writer.create_open(self._entry.path, self._entry.size_bytes, token)
            if len(self._entry.extents) == 1:
                self._fd = fd
            return fd


def _data_bytes(entry: Entry) -> int:
    return sum(extent.size_bytes for extent in entry.extents if isinstance(extent, Chunk))


def has_content(fd: int, entry: Entry) -> bool:
    """True if an open file of the right size has an entry's bytes and holes; all of it is read."""
    offset = 0
    for extent in entry.extents:
        if isinstance(extent, Chunk):
            if hash_bytes(os.pread(fd, extent.size_bytes, offset)) != extent.hash:
                return False
        elif not is_hole(fd, offset, extent.size_bytes):
            return False
        offset += extent.size_bytes
    return True
