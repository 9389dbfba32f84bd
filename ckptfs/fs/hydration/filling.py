"""A file that is being filled: its chunks come in any order, and whoever reads it waits for those of its range only.

Used for stubs of the live tree (hydrator.py) and for files of versions that are shown read-only (contents.py). Chunks
are fetched by the threads of a FetchQueue (fetching.py); here is what is known of one file.

Invariants:
    F1  a chunk counts as present when its verified bytes are at its place in the file, and not before
    F2  nothing is written to the file when stop() has returned
    F3  a chunk is fetched by one thread at a time
    F4  the file is open here while somebody uses it, and no longer
"""

import errno
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from ckptfs.capture.copying import data_ranges
from ckptfs.errors import CkptfsError, StoreError
from ckptfs.format.manifest import Chunk, Entry
from ckptfs.fs.interrupts import POLL_S, give_up_if_interrupted
from ckptfs.hashing import hash_bytes
from ckptfs.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate

_MISSING, _SUSPECT, _COMING, _PRESENT = range(4)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Filling:
    """One file of a version on local disk, of its full size, with some of its chunks.

    Args:
        entry: What it is to hold.
        suspect: The file may hold right bytes already: each chunk is looked at before it is fetched.
        whole: Called, by any thread and without a lock, when the last chunk is there; calls finished() in the end.
        idle: Called when nobody uses it any more, before the file is closed; must not wait for anything.
        wrote: Called with the descriptor after each chunk was written to it.
    """

    def __init__(
        self,
        entry: Entry,
        *,
        suspect: bool,
        whole: Callable[["Filling"], None],
        idle: Callable[["Filling"], None] = lambda filling: None,
        wrote: Callable[[int], None] = lambda fd: None,
    ) -> None:
        self.entry = entry
        self._suspect = suspect
        self._whole = whole
        self._idle = idle
        self._wrote = wrote
        self._starts: list[int] = []
        self.chunks: list[Chunk] = []
        offset = 0
        for extent in entry.extents:
            if isinstance(extent, Chunk):
                self._starts.append(offset)
                self.chunks.append(extent)
            offset += extent.size_bytes
        self._states = bytearray([_SUSPECT if suspect else _MISSING]) * len(self.chunks)
        self._left = len(self.chunks)
        self._changed = threading.Condition()
        self.fd = -1
        self._users = 0
        self._writing = 0
        self._stopped = self._closed = False
        self._finished = False
        self._errors = 0
        self._last_errors: dict[int, tuple[int, CkptfsError]] = {}
        """Index to the number of its last error, counted over the whole file, and the error; -1 for the file itself."""
        self.read_end_bytes = 0
        """Where the last read ended."""

    # who uses it

    @property
    def users(self) -> int:
        """How many use it."""
        return self._users

    def join(self) -> bool:
        """Use it if somebody does already; False if it would have to be opened."""
        with self._changed:
            if self.fd < 0:
                return False
            self._users += 1
            return True

    def open(self, fd: int) -> None:
        """Use it through this descriptor, which is closed here; one that has come meanwhile is used instead.

        Raises:
            OSError: The file cannot be prepared.
        """
        with self._changed:
            if self.fd >= 0:
                os.close(fd)
            else:
                try:
                    self._clear_holes(fd)
                except BaseException:
                    os.close(fd)
                    raise
                self.fd = fd
            self._users += 1

    def leave(self) -> None:
        """Use it no more."""
        with self._changed:
            self._users -= 1
            if self._users == 0:
                # first, for with the last descriptor a file without a name goes, and its number may come back
                self._idle(self)
                os.close(self.fd)
                self.fd = -1

    def _clear_holes(self, fd: int) -> None:
        if not self._suspect:
            return
        offset = 0
        for extent in self.entry.extents:
            if not isinstance(extent, Chunk) and data_ranges(fd, offset, offset + extent.size_bytes):
                punch(fd, offset, extent.size_bytes)
                self._wrote(fd)
            offset += extent.size_bytes
        self._suspect = False

    # what is there

    @property
    def is_filled(self) -> bool:
        """True if all chunks are there."""
        return self._left == 0

    @property
    def is_closed(self) -> bool:
        """True if its bytes are the program's now."""
        return self._closed

    @property
    def missing_bytes(self) -> int:
        """Plain bytes of the chunks that are not there."""
        return sum(
            chunk.size_bytes for chunk, state in zip(self.chunks, self._states, strict=True) if state != _PRESENT
        )

    @property
    def errors(self) -> int:
        """How often something has failed so far."""
        return self._errors

    @property
    def last_error(self) -> CkptfsError | None:
        """Why something failed last; None if nothing ever did."""
        with self._changed:
            newest = max(self._last_errors.values(), key=lambda pair: pair[0], default=None)
        return newest[1] if newest is not None else None

    def missing(self, start_bytes: int = 0, end_bytes: int | None = None) -> list[int]:
        """Return the chunks, by index, that a range needs and nobody is fetching."""
        first, last = self._span(start_bytes, end_bytes)
        with self._changed:
            if self._stopped:
                return []
            return [index for index in range(first, last) if self._states[index] < _COMING]

    def is_present(self, start_bytes: int, end_bytes: int) -> bool:
        """True if all bytes of a range are there."""
        if self._left == 0:
            return True
        first, last = self._span(start_bytes, end_bytes)
        return self._states.count(_PRESENT, first, last) == last - first

    def seek(self, offset_bytes: int, whence: int) -> int | None:
        """Return where lseek(2) with SEEK_DATA or SEEK_HOLE leads once all is there; None where it finds nothing."""
        if offset_bytes < 0:
            return None
        offset = 0
        for extent in self.entry.extents:
            end = offset + extent.size_bytes
            if end > offset_bytes and isinstance(extent, Chunk) == (whence == os.SEEK_DATA):
                return max(offset, offset_bytes)
            offset = end
        return offset if whence == os.SEEK_HOLE and offset_bytes < offset else None

    def _span(self, start_bytes: int, end_bytes: int | None) -> tuple[int, int]:
        """Return the first and last + 1 chunk that a range touches."""
        first = max(0, bisect_right(self._starts, start_bytes) - 1)
        if first < len(self.chunks) and self._starts[first] + self.chunks[first].size_bytes <= start_bytes:
            first += 1
        last = len(self.chunks) if end_bytes is None else bisect_left(self._starts, end_bytes)
        return first, max(first, last)

    # waiting

    def wait(self, start_bytes: int, end_bytes: int, errors: int) -> None:
        """Return when a range is there, or the file is closed: its bytes are the program's then.

        Args:
            errors: `self.errors` before the range was asked for.

        Raises:
            CkptfsError: One of its chunks could not be had.
            InterruptedError: The program that waits is to end.
        """
        first, last = self._span(start_bytes, end_bytes)
        while True:
            with self._changed:
                if self._closed or self._states.count(_PRESENT, first, last) == last - first:
                    return
                self._raise_since(errors, first, last)
                self._changed.wait(POLL_S)
            give_up_if_interrupted()

    def wait_finished(self, errors: int) -> None:
        """Return when finished() was called, or the file is closed. Arguments and errors as of wait()."""
        while True:
            with self._changed:
                if self._closed or self._finished:
                    return
                self._raise_since(errors, -1, len(self.chunks))
                self._changed.wait(POLL_S)
            give_up_if_interrupted()

    def _raise_since(self, errors: int, first: int, last: int) -> None:
        if self._errors == errors:
            return
        for index, (number, error) in self._last_errors.items():
            if number > errors and first <= index < last:
                # another object for each who waits: raising one changes its traceback
                raise _copy(error, error.fact) from error

    # filling, by the threads of the queue

    def claim(self, index: int) -> bool:
        """Return True if a chunk is to be fetched, by the caller (F3); it ends in deliver()."""
        with self._changed:
            state = self._states[index]
            if self._stopped or state >= _COMING:
                return False
            self._states[index] = _COMING
        if state == _SUSPECT and self._is_right(index):
            self._came(index)
            return False
        return True

    def deliver(
        self, index: int, result: bytes | CkptfsError, make_room: Callable[[int], bool] = lambda size_bytes: False
    ) -> None:
        """Write a verified chunk to its place, or note why it cannot be had.

        Args:
            make_room: Called when the disk is full, with the bytes that are needed; returns False if it stays full.
        """
        error = result if isinstance(result, CkptfsError) else self._write(index, result)
        if error is not None and error.errno in _FULL and isinstance(result, bytes) and make_room(len(result)):
            error = self._write(index, result)
        if error is not None:
            self.fail(error, index)
        elif not self._stopped:
            self._came(index)

    def fail(self, error: CkptfsError, index: int = -1) -> None:
        """Tell those who wait for a chunk, or for the whole file, that it cannot be had now; it may be asked for
        again.
        """
        named = _copy(error, f"{os.fsdecode(self.entry.path)!r}: {error.fact}")
        named.__cause__ = error
        if isinstance(error, StoreError):
            # what the store says of an object is not to be taken for something that the program did
            named.errno = errno.EIO
        with self._changed:
            if index >= 0:
                self._states[index] = _MISSING
            self._errors += 1
            self._last_errors[index] = self._errors, named
            self._changed.notify_all()

    def finished(self) -> None:
        """It is an ordinary file from now on."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Write nothing more to the file: its bytes are about to be the program's. Those who wait go on waiting.

        Waits for a chunk that is being written, not for one that is fetched.
        """
        with self._changed:
            self._stopped = True
            while self._writing:
                self._changed.wait()

    def close(self) -> None:
        """Its bytes are the program's: nobody need wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _came(self, index: int) -> None:
        with self._changed:
            self._states[index] = _PRESENT
            self._left -= 1
            is_last = self._left == 0 and not self._stopped
            self._changed.notify_all()
        if is_last:
            self._whole(self)

    def _is_right(self, index: int) -> bool:
        start, chunk = self._starts[index], self.chunks[index]
        try:
            if not data_ranges(self.fd, start, start + chunk.size_bytes):
                return False  # never written, and need not be read
            data = os.pread(self.fd, chunk.size_bytes, start)
        except OSError:
            return False
        return len(data) == chunk.size_bytes and hash_bytes(data) == chunk.hash

    def _write(self, index: int, data: bytes) -> CkptfsError | None:
        """Write a chunk, unless the file is the program's; return why that failed."""
        with self._changed:
            if self._stopped:
                return None
            self._writing += 1
        try:
            view, offset_bytes = memoryview(data), self._starts[index]
            while view:
                written = os.pwrite(self.fd, view, offset_bytes)
                view = view[written:]
                offset_bytes += written
            self._wrote(self.fd)
        except OSError as cause:
            error = CkptfsError(f"could not be written: {cause.strerror or cause}")
            error.errno = cause.errno or error.errno
            return error
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()
        return None


def punch(fd: int, offset_bytes: int, size_bytes: int) -> None:
    """Take the data out of a range of a file, which reads as zeros then. Raises OSError."""
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_bytes, size_bytes)


def _copy(error: CkptfsError, fact: str) -> CkptfsError:
    copy = type(error)(fact, hint=error.hint)
    copy.errno = error.errno
    return copy
