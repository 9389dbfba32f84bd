"""Reading the bytes of `data/<index>` of a pending version (FORMAT.md 7), while the live file may be about to change.

Rule D1: `data/<index>` may be replaced by rename while it is read: by a private copy with the captured bytes, put there
before the live inode changes. So whatever was learned from a descriptor - bytes, or where a hole is - counts only if
afterwards the path still leads to the same inode; else it is learned again from the new file.

The file may be longer than what was captured (something was appended since); only the captured size is looked at.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ckptfs.cache.quiet import leave_atime
from ckptfs.errors import CorruptObjectError
from ckptfs.transfer.cuts import Cuts
from ckptfs.transfer.encoding import Slot, SlotPool
from ckptfs.transfer.owned import open_owned

# What a disk says that has lost a file's bytes; anything else (no descriptors, no memory) may pass.
_LOST = (errno.ENOENT, errno.EIO, errno.ENODATA, errno.ESTALE, errno.EUCLEAN, errno.ENOTDIR, errno.ELOOP)


class PendingDataError(CorruptObjectError):
    """The local data of a pending version are not there any more, or not as they were captured. Never retried."""

    hint = "the version is kept aside; `ckptfs recover` lists it"


def read_head(path: Path, size_bytes: int) -> bytes:
    """Return the first bytes of a data file as they are now (D1): for a guess. Empty if they cannot be had."""
    try:
        fd = open_owned(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        leave_atime(fd)
        return os.pread(fd, size_bytes, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


class DataFile:
    """One `data/<index>`, open for reading.

    Args:
        path: Of the file.
        size_bytes: The captured size.

    Raises:
        PendingDataError: It is missing, unreadable for good, or shorter than the captured size.
        OSError: It cannot be opened now.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._fd = -1
        self._data_end = 0
        """Known to be data up to here, from where the last look began."""
        self._open()

    def __enter__(self) -> "DataFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def extents(self, slots: SlotPool, cuts: Cuts | None = None) -> Iterator[tuple[int, Slot | None]]:
        """Yield the file's extents in order: (size, slot that begins with its bytes), or (size, None) for a hole.

        Args:
            slots: Where slots come from; whoever receives one gives it back.
            cuts: Where extents of data end besides; None: at multiples of the slots' size.

        Raises:
            PendingDataError, OSError: As the constructor.
        """
        cuts = cuts or Cuts(None, self._size_bytes, slots.size_bytes, (), lambda _: None)
        offset = 0
        slot: Slot | None = None
        try:
            while offset < self._size_bytes:
                is_data, size = self._look(offset)
                if is_data:
                    slot = slot or slots.take()
                    size = min(size, cuts.end(offset) - offset)
                    is_whole = self._read(offset, slot.plain[:size])
                else:
                    is_whole = os.fstat(self._fd).st_size >= self._size_bytes
                if self._was_replaced():
                    continue
                if not is_whole:
                    raise self._too_short()
                if is_data and slot is not None:
                    size = cuts.keep(offset, slot.plain[:size])
                offset += size
                if is_data:
                    filled, slot = slot, None
                    yield size, filled
                else:
                    yield size, None
        finally:
            if slot is not None:
                slots.give(slot)

    def _open(self) -> None:
        try:
            fd = open_owned(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise self._explain(error) from error
        leave_atime(fd)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._data_end = 0
        # a file that is being replaced has the right size again at the new path
        if os.fstat(fd).st_size < self._size_bytes and not self._was_replaced():
            raise self._too_short()

    def _was_replaced(self) -> bool:
        """True if the path led to another file than the open one; then that one is open now."""
        mine = os.fstat(self._fd)
        try:
            now = os.stat(self._path, follow_symlinks=False)
        except OSError as error:
            raise self._explain(error) from error
        if (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino):
            return False
        self._open()
        return True

    def _look(self, offset: int) -> tuple[bool, int]:
        """Return whether there is data at an offset, and how long the run of data or the hole is (or may be)."""
        if offset < self._data_end:
            return True, self._data_end - offset
        try:
            start = os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False, self._size_bytes - offset
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise self._explain(error) from error
            # this filesystem knows no holes
            self._data_end = self._size_bytes
            return True, self._size_bytes - offset
        if start > offset:
            return False, min(start, self._size_bytes) - offset
        self._data_end = min(os.lseek(self._fd, offset, os.SEEK_HOLE), self._size_bytes)
        return True, self._data_end - offset

    def _read(self, offset: int, into: memoryview) -> bool:
        """Fill a buffer; False if the file ends before."""
        while into:
            try:
                size = os.preadv(self._fd, [into], offset)
            except OSError as error:
                raise self._explain(error) from error
            if size == 0:
                return False
            into = into[size:]
            offset += size
        return True

    def _too_short(self) -> PendingDataError:
        size = os.fstat(self._fd).st_size
        return PendingDataError(f"{self._path} has {size} bytes, expected at least {self._size_bytes}")

    def _explain(self, error: OSError) -> OSError | PendingDataError:
        if error.errno in _LOST:
            return PendingDataError(f"{self._path} cannot be read: {error.strerror}")
        return error
