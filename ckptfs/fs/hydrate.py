"""Hydration: giving live files their data, on demand and ahead in the background.

A stub is a live file with its right size and attributes but without data. It becomes an ordinary file when its data
have been fetched and verified, before the first open of it returns.

Invariants:
    H1  no handle is open on a stub
    H2  a stub's bytes are unchanged since they were stored, so a capture refers to them and needs no data
    H3  a stub's mtime lives here, for filling the file changes the real one
    H4  lock order: a stub's lock, then the gate; nobody inside the gate waits for a stub's lock
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.capture.copying import data_ranges
from ckptfs.capture.gate import Gate
from ckptfs.capture.reach import reach
from ckptfs.errors import CkptfsError
from ckptfs.format.manifest import Chunk, Entry
from ckptfs.fs.contents import writer
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.fetch import Fetcher, FetchJob

# One background batch: small enough that an open which falls into it waits a second at most on a slow link of 64 MB/s,
# large enough that neighbours in a pack come in one request.
_BATCH_BYTES = 64 << 20
_BATCH_FILES = 512

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stub:
    """A live file without data."""

    ino: int
    path: bytes
    entry: Entry
    mtime_ns: int
    suspect: bool
    """The live file may hold the right data already; check before fetching."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is being filled."""

    @property
    def data_blocks(self) -> int:
        """512-byte blocks that its data will take."""
        return sum(-(-extent.size_bytes // 512) for extent in self.entry.extents if isinstance(extent, Chunk))


class Hydrator:
    """The stubs of a mount.

    Args:
        root_fd: The live tree.
        fetcher: Reads chunks.
        gate: Entered to complete a stub.
        times: Told of every stub that is about to be filled.
        completed: Called inside the gate with the inode of a file that is no stub any more.
    """

    def __init__(
        self, root_fd: int, fetcher: Fetcher, gate: Gate, times: ChangeTimes, completed: Callable[[int], None]
    ) -> None:
        self._root_fd = root_fd
        self._fetcher = fetcher
        self._gate = gate
        self._times = times
        self._completed = completed
        self._stubs: dict[int, Stub] = {}
        self._demands = 0
        self._idle = threading.Condition()
        self._stopping = False
        self._wanted = threading.Event()

    def __contains__(self, ino: int) -> bool:
        return ino in self._stubs

    def __len__(self) -> int:
        return len(self._stubs)

    @property
    def missing_bytes(self) -> int:
        """Bytes that are not here yet."""
        return sum(stub.entry.size_bytes for stub in list(self._stubs.values()))

    def get(self, ino: int) -> Stub | None:
        """Return a stub."""
        return self._stubs.get(ino)

    def inodes(self) -> set[int]:
        """Return all stubs' inodes."""
        return set(self._stubs)

    def add(self, stubs: Iterable[Stub]) -> None:
        """Take further stubs in charge."""
        self._stubs.update((stub.ino, stub) for stub in stubs)
        self._wanted.set()

    @contextmanager
    def held(self, ino: int) -> Iterator[None]:
        """Keep an inode from being filled meanwhile, stub or not. Entered outside the gate; forget() may follow inside
        both.
        """
        stub = self._stubs.get(ino)
        if stub is None:
            yield
            return
        with stub.lock:
            yield

    def forget(self, ino: int) -> None:
        """An inode needs its data no more: it is truncated to nothing or has lost its last name. Called inside the
        gate.
        """
        if self._stubs.pop(ino, None) is not None:
            self._completed(ino)

    def ensure(self, ino: int, path: bytes) -> None:
        """Return when a file has its data. Not to be called inside the gate.

        Raises:
            ChunkCorruptError, CorruptObjectError: The stored data are damaged.
            StoreError: They cannot be had now.
        """
        stub = self._stubs.get(ino)
        if stub is None:
            return
        with self._idle:
            self._demands += 1
        try:
            with stub.lock:
                if ino in self._stubs:
                    self._fill([stub], {ino: path})
        finally:
            with self._idle:
                self._demands -= 1
                self._idle.notify_all()

    def run(self) -> None:
        """Fill stubs in the order of their paths until stop(); meant for a thread of its own."""
        while not self._stopping:
            self._wanted.wait()
            self._wanted.clear()
            failed: set[int] = set()
            while not self._stopping and (batch := self._next_batch(failed)):
                failed |= self._fill_batch(batch)
                with self._idle:
                    # on-demand reads go first
                    while self._demands and not self._stopping:
                        self._idle.wait()

    def stop(self) -> None:
        """Make run() return after its current batch."""
        self._stopping = True
        self._wanted.set()
        with self._idle:
            self._idle.notify_all()

    def _next_batch(self, failed: set[int]) -> list[Stub]:
        batch: list[Stub] = []
        size_bytes = 0
        for stub in sorted((s for s in list(self._stubs.values()) if s.ino not in failed), key=lambda stub: stub.path):
            if batch and (size_bytes + stub.entry.size_bytes > _BATCH_BYTES or len(batch) == _BATCH_FILES):
                break
            batch.append(stub)
            size_bytes += stub.entry.size_bytes
        return batch

    def _fill_batch(self, batch: list[Stub]) -> set[int]:
        """Fill what nobody else is filling; return the inodes that are to be left to an open."""
        held = [stub for stub in batch if stub.lock.acquire(blocking=False)]
        try:
            present = [stub for stub in held if stub.ino in self._stubs]
            self._fill(present, {stub.ino: stub.path for stub in present})
        except (CkptfsError, OSError) as error:
            log.warning("prefetch failed files=%d error=%r", len(held), str(error))
        finally:
            for stub in held:
                stub.lock.release()
        return {stub.ino for stub in batch if stub.ino in self._stubs}

    def _fill(self, stubs: list[Stub], paths: dict[int, bytes]) -> None:
        """Fetch several stubs, whose locks are held; each is completed as it is whole. Raises the first error."""
        errors: list[CkptfsError] = []
        open_fds: dict[int, tuple[Stub, int]] = {}
        jobs = []
        try:
            for stub in stubs:
                fd = self._open(paths[stub.ino], stub.ino)
                if fd < 0:
                    continue
                if self._holds_content(stub, fd):
                    self._complete(stub, fd)
                    os.close(fd)
                    continue
                job = FetchJob(stub.entry, writer(fd))
                open_fds[id(job)] = (stub, fd)
                jobs.append(job)

            def done(job: FetchJob, error: CkptfsError | None) -> None:
                stub, fd = open_fds[id(job)]
                if error is None:
                    self._complete(stub, fd)
                else:
                    errors.append(error)

            if jobs:
                self._fetcher.fetch(jobs, done)
        finally:
            for _, fd in open_fds.values():
                os.close(fd)
        if errors:
            raise errors[0]

    def _open(self, path: bytes, ino: int) -> int:
        """Return a descriptor to fill an inode through, or -1 if the path is not its name any more."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with self._gate:
            try:
                status = os.stat(reach(self._root_fd, path), dir_fd=self._root_fd, follow_symlinks=False)
                if status.st_ino != ino:
                    return -1
                self._times.keep(status)
                try:
                    return os.open(reach(self._root_fd, path), flags, dir_fd=self._root_fd)
                except PermissionError:
                    # our own file with a mode that forbids it (we are not root)
                    os.chmod(reach(self._root_fd, path), status.st_mode & 0o7777 | 0o600, dir_fd=self._root_fd)
                    try:
                        return os.open(reach(self._root_fd, path), flags, dir_fd=self._root_fd)
                    finally:
                        os.chmod(reach(self._root_fd, path), status.st_mode & 0o7777, dir_fd=self._root_fd)
            except (FileNotFoundError, NotADirectoryError):
                return -1

    def _holds_content(self, stub: Stub, fd: int) -> bool:
        """True if a suspect file's bytes are right already; a suspect file that is wrong is emptied."""
        if not stub.suspect:
            return False
        offset = 0
        for extent in stub.entry.extents:
            if isinstance(extent, Chunk):
                data = os.pread(fd, extent.size_bytes, offset)
                is_right = len(data) == extent.size_bytes and hash_bytes(data) == extent.hash
            else:
                is_right = not data_ranges(fd, offset, offset + extent.size_bytes)
            if not is_right:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, stub.entry.size_bytes)
                return False
            offset += extent.size_bytes
        return True

    def _complete(self, stub: Stub, fd: int) -> None:
        with self._gate:
            os.utime(fd, ns=(os.fstat(fd).st_atime_ns, stub.mtime_ns))
            if self._stubs.pop(stub.ino, None) is not None:
                self._completed(stub.ino)
