"""Hydration: giving live files their data, as programs read them and ahead in the background.

A stub is a live file with its right size and attributes but without all of its data. Who opens it for reading waits for
no more than the chunks that he reads (filling.py); who wants to change it waits for all. With the last chunk it becomes
an ordinary file.

Invariants:
    H1  a handle on a stub only reads, and waits for its chunks; the kernel does not go past us to a stub
    H2  a stub's bytes are unchanged since they were stored, so a capture refers to them and needs no data
    H3  a stub's mtime lives here, for filling the file changes the real one
    H4  nobody inside the gate waits for data; what is locked here is held while a chunk is written, at most
    H5  a stub that has lost its last name stays one while handles read it
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.capture.gate import Gate
from ckptfs.capture.reach import reach
from ckptfs.errors import CkptfsError
from ckptfs.format.manifest import Chunk, Entry, representable
from ckptfs.fs.hydration.fetching import FetchQueue, Reader
from ckptfs.fs.hydration.filling import Filling
from ckptfs.fs.hydration.left_stubs import read_left, remove_left, write_left
from ckptfs.fs.times import NOW_NS, set_times

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(slots=True, eq=False)
class Stub:
    """A live file without all of its data."""

    ino: int
    path: bytes
    entry: Entry
    mtime_ns: int
    suspect: bool
    """The live file may hold right data already; each chunk is checked before it is fetched."""
    is_nameless: bool = False
    """It has lost its last name, and handles read it."""
    filling: Filling | None = None
    """Made when it is first needed."""

    @property
    def data_blocks(self) -> int:
        """512-byte blocks that its data will take."""
        return sum(-(-extent.size_bytes // 512) for extent in self.entry.extents if isinstance(extent, Chunk))

    @property
    def missing_bytes(self) -> int:
        """Bytes that are not here yet."""
        return self.filling.missing_bytes if self.filling is not None else self.entry.size_bytes


class Hydrator:
    """The stubs of a mount.

    Args:
        root_fd: The live tree.
        spare_fd: Where what is needed of stubs without a name is written down for a server that takes over.
        queue: Fetches chunks.
        gate: Entered to open and to complete a stub.
        times: Told of every stub that is about to be filled.
        completed: Called inside the gate with the inode of a file that is no stub any more, or has no name any more.
    """

    def __init__(
        self,
        root_fd: int,
        spare_fd: int,
        queue: FetchQueue,
        gate: Gate,
        times: ChangeTimes,
        completed: Callable[[int], None],
    ) -> None:
        self._root_fd = root_fd
        self._spare_fd = spare_fd
        self._queue = queue
        self._gate = gate
        self._times = times
        self._completed = completed
        times.on_given = self._know_mtime
        self._stubs: dict[int, Stub] = {}
        self._left: set[int] = set()
        """Stubs of which that is written down."""
        self._lock = threading.Lock()
        """Held while it is decided whether a stub is used."""
        self.completions = 0
        """How many stubs have become ordinary files."""
        self.on_added: Callable[[], None] = lambda: None
        """Told that there are more stubs."""
        self.on_wanted: Callable[[int], None] = lambda ino: None
        """Told of the inode when a program waits for a stub's data."""

    def __contains__(self, ino: int) -> bool:
        return ino in self._stubs

    @property
    def missing_files(self) -> int:
        """Files that lack data; one whose last chunk has come is not among them while that is being written down."""
        return sum(stub.filling is None or not stub.filling.is_filled for stub in list(self._stubs.values()))

    @property
    def missing_bytes(self) -> int:
        """Bytes that are not here yet."""
        return sum(stub.missing_bytes for stub in list(self._stubs.values()))

    def get(self, ino: int) -> Stub | None:
        """Return a stub."""
        return self._stubs.get(ino)

    def inodes(self) -> set[int]:
        """Return the inodes of all stubs that have a name."""
        return {stub.ino for stub in list(self._stubs.values()) if not stub.is_nameless}

    def add(self, stubs: Iterable[Stub]) -> None:
        """Take further stubs in charge."""
        self._stubs.update((stub.ino, stub) for stub in stubs)
        self.on_added()

    def give_mtime(self, stub: Stub, mtime_ns: int) -> None:
        """A restore sets a stub's mtime. Called with the gate closed."""
        stub.mtime_ns = mtime_ns
        self._times.give(stub.ino, mtime_ns)

    def set_mtime(self, mtime_ns: int | None, change: Callable[[], os.stat_result]) -> os.stat_result:
        """A program sets the mtime of a file that may be a stub. Called inside the gate.

        A chunk that comes meanwhile moves the file's own mtime: what was asked for counts, not what it has then.

        Args:
            mtime_ns: As of times.set_times.
            change: Sets it, and returns what the file looks like then.
        """
        # held, so that it does not become an ordinary file with the old one in between
        with self._lock:
            status = change()
            stub = self._stubs.get(status.st_ino)
            if stub is not None and mtime_ns is not None:
                # of "now" ctime tells, which a chunk that comes moves as well, but to no other time than now
                self.give_mtime(stub, status.st_ctime_ns if mtime_ns == NOW_NS else representable(mtime_ns))
            return status

    def _know_mtime(self, ino: int, mtime_ns: int) -> None:
        stub = self._stubs.get(ino)
        if stub is not None:
            stub.mtime_ns = mtime_ns

    # what goes away

    @contextmanager
    def truncating(self, ino: int) -> Iterator[None]:
        """Let an inode be truncated to nothing: it needs its data no more. Entered inside the gate."""
        stub = self._stubs.get(ino)
        if stub is None:
            yield
            return
        if stub.filling is not None:
            stub.filling.stop()
        if not stub.is_nameless:
            self._completed(ino)
        self.remove_left(ino)
        try:
            yield
        finally:
            self._drop(stub)
            if stub.filling is not None:
                stub.filling.close()

    def lost_name(self, ino: int) -> None:
        """An inode has lost its last name. Called inside the gate."""
        with self._lock:
            stub = self._stubs.get(ino)
            if stub is None:
                return
            # first, for whoever uses it may be just leaving
            stub.is_nameless = True
            if stub.filling is None or not stub.filling.users:
                self._drop(stub)
        self._completed(ino)

    def _drop(self, stub: Stub) -> None:
        if self._stubs.get(stub.ino) is stub:
            del self._stubs[stub.ino]
            self._times.give(stub.ino, None)

    def _idle(self, stub: Stub) -> None:
        if stub.is_nameless:
            self._drop(stub)

    # who needs data

    def reader(self, path: bytes, ino: int) -> Reader | None:
        """Return how to read an inode that is a stub; None if its data are all there. Called inside the gate.

        Args:
            path: b"" for a file that was opened without one.

        Raises:
            OSError: The path is not the inode's, or it cannot be opened.
        """
        filling = self._use(path, ino)
        return Reader(filling, self._queue, lambda: self.on_wanted(ino)) if filling is not None else None

    def ensure(self, ino: int, path: bytes) -> None:
        """Return when a file has its data, or the path is not its any more. Not to be called inside the gate.

        Raises:
            ChunkCorruptError, CorruptObjectError: The stored data are damaged.
            StoreError: They cannot be had now.
            InterruptedError: The program that waits is to end.
        """
        if ino not in self._stubs:
            return
        try:
            with self._gate:
                filling = self._use(path, ino, must_complete=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        if filling is not None:
            reader = Reader(filling, self._queue, lambda: self.on_wanted(ino))
            try:
                reader.require_all()
            finally:
                reader.close()

    def _use(self, path: bytes, ino: int, *, must_complete: bool = False) -> Filling | None:
        """Return an inode's filling, joined; None if it needs none. Called inside the gate.

        Args:
            must_complete: Raise OSError if it is filled and cannot be made an ordinary file.
        """
        if ino not in self._stubs:
            return None
        with self._lock:
            stub = self._stubs.get(ino)
            if stub is None:
                return None
            filling = stub.filling = stub.filling or self._make_filling(stub)
            if not filling.join():
                filling.open(self._open(path or stub.path, ino))
        if filling.is_filled:
            try:
                self._complete(stub, filling)
            except OSError:
                if not must_complete:
                    return filling  # it can be read all the same
                filling.leave()
                raise
            filling.leave()
            return None
        return filling

    def _make_filling(self, stub: Stub) -> Filling:
        return Filling(
            stub.entry,
            suspect=stub.suspect,
            whole=lambda filling: self._whole(stub, filling),
            idle=lambda filling: self._idle(stub),
            # so that it has the right one if we are killed
            wrote=lambda fd: set_times(fd, None, None, stub.mtime_ns),
        )

    def _open(self, path: bytes, ino: int) -> int:
        """Return a descriptor to fill an inode through. Raises FileNotFoundError if the path is not its name."""
        status = os.stat(reach(self._root_fd, path), dir_fd=self._root_fd, follow_symlinks=False)
        if status.st_ino != ino:
            raise FileNotFoundError(2, os.strerror(2))
        self._times.keep(status)
        try:
            fd = os.open(reach(self._root_fd, path), _FLAGS, dir_fd=self._root_fd)
        except PermissionError:
            # our own file with a mode that forbids it (we are not root)
            os.chmod(reach(self._root_fd, path), status.st_mode & 0o7777 | 0o600, dir_fd=self._root_fd)
            try:
                fd = os.open(reach(self._root_fd, path), _FLAGS, dir_fd=self._root_fd)
            finally:
                os.chmod(reach(self._root_fd, path), status.st_mode & 0o7777, dir_fd=self._root_fd)
        if os.fstat(fd).st_ino != ino:
            os.close(fd)
            raise FileNotFoundError(2, os.strerror(2))
        return fd

    def _whole(self, stub: Stub, filling: Filling) -> None:
        try:
            with self._gate:
                self._complete(stub, filling)
        except OSError as error:
            filling.fail(CkptfsError(f"could not be completed: {error.strerror or error}"))

    def _complete(self, stub: Stub, filling: Filling) -> None:
        """A stub has all its data. Called inside the gate. Raises OSError; it stays a stub then."""
        with self._lock:
            if self._stubs.get(stub.ino) is not stub:
                return
            set_times(filling.fd, None, None, stub.mtime_ns)
            if not stub.is_nameless:
                # first, for nobody may change it before that is written down
                self._completed(stub.ino)
            # from now on it may be changed, and must not be taken for what it was
            self.remove_left(stub.ino)
            self.completions += 1
            del self._stubs[stub.ino]
            self._times.give(stub.ino, None)
        filling.finished()

    # fetching ahead (prefetch.Missing)

    def waiting(self) -> Sequence[tuple[bytes, Hashable]]:
        """Return path and inode of every stub that has a name."""
        return [(stub.path, stub.ino) for stub in list(self._stubs.values()) if not stub.is_nameless]

    def begin(self, key: Hashable) -> Filling | None:
        """Return a stub that is to be filled ahead, joined; None if there is nothing to do."""
        stub = self._stubs.get(key) if isinstance(key, int) else None
        if stub is None:
            return None
        try:
            with self._gate:
                return self._use(stub.path, stub.ino)
        except OSError:
            return None

    # taking data away, and being taken over

    def emptied(self, stub: Stub) -> None:
        """A file's data are about to be taken away; it is a stub that nobody uses, or becomes one. Called with the gate
        closed.

        It is not fetched ahead because of that: there was no room for it.
        """
        self._stubs[stub.ino] = stub
        stub.suspect, stub.filling = True, None

    def write_left(self, ino: int) -> None:
        """Write down what a server that takes over needs of a stub that is about to lose its last name and is open.

        Raises:
            OSError: It could not be written.
        """
        stub = self._stubs.get(ino)
        if stub is not None:
            write_left(self._spare_fd, ino, stub.entry)
            self._left.add(ino)

    def remove_left(self, ino: int) -> None:
        """It is not open any more, or no stub."""
        if ino in self._left:
            self._left.discard(ino)
            remove_left(self._spare_fd, ino)

    def go_on_named(self, ino: int) -> None:
        """An inode that the server before this one kept has a name still: what was written down holds while a stub."""
        self._left.add(ino)
        if ino not in self._stubs:
            self.remove_left(ino)

    def go_on_nameless(self, ino: int, fd: int) -> Reader | None:
        """Return how to read an inode without a name that the server before this one had open; None if it is whole."""
        entry = read_left(self._spare_fd, ino)
        if entry is None:
            return None
        self._left.add(ino)
        with self._lock:
            stub = self._stubs.get(ino)
            if stub is None:
                stub = self._stubs[ino] = Stub(ino, b"", entry, os.fstat(fd).st_mtime_ns, True, is_nameless=True)
            filling = stub.filling = stub.filling or self._make_filling(stub)
            if not filling.join():
                filling.open(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))
        return Reader(filling, self._queue)
