"""One file in a mount and what its bytes should be: every operation is done on both, and every read compared.

Nothing here is random. Mappings are touched only below the file's size, so that no operation ends in SIGBUS.
"""

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from tests.mapping import Mapping

PAGE_BYTES = 4096

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 0x01, 0x02, 0x08, 0x10, 0x20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class DifferenceError(AssertionError):
    """The mount says something else than the model."""

    def __init__(self, fact: str, offset: int) -> None:
        super().__init__(fact)
        self.offset = offset


@dataclass(eq=False)
class Handle:
    """An open descriptor."""

    fd: int
    flags: int

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def is_direct(self) -> bool:
        return bool(self.flags & os.O_DIRECT)


class ExercisedFile:
    """The file, its open handles and mappings, and the model.

    Args:
        path: Made here.
        max_bytes: It never grows beyond.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.content = bytearray()
        self.handles: list[Handle] = []
        self.mappings: list[Mapping] = []
        # direct I/O wants a buffer at a page's beginning
        self._aligned = mmap.mmap(-1, max_bytes)

    @property
    def size(self) -> int:
        return len(self.content)

    # opening

    def open(self, flags: int) -> Handle:
        if flags & os.O_TRUNC:
            del self.content[:]
        handle = Handle(os.open(self.path, flags, 0o644), flags)
        self.handles.append(handle)
        return handle

    def close(self, handle: Handle) -> None:
        self.handles.remove(handle)
        os.close(handle.fd)

    def map(self, handle: Handle) -> None:
        self.mappings.append(Mapping(handle.fd, self.size, writes=handle.flags & os.O_ACCMODE == os.O_RDWR))

    def unmap(self, mapping: Mapping) -> None:
        self.mappings.remove(mapping)
        mapping.close()

    def close_all(self) -> None:
        for mapping in list(self.mappings):
            self.unmap(mapping)
        for handle in list(self.handles):
            self.close(handle)

    # reading

    def read(self, handle: Handle, offset: int, length: int) -> None:
        if handle.is_direct:
            count = os.preadv(handle.fd, [memoryview(self._aligned)[:length]], offset)
            self._compare("read directly", self._aligned[:count], offset, length)
        else:
            self._compare("read", os.pread(handle.fd, length, offset), offset, length)

    def read_mapped(self, mapping: Mapping, offset: int, length: int) -> None:
        self._compare("mapped", bytes(mapping.view[offset : offset + length]), offset, length)

    def read_whole(self, path: Path | None = None, content: bytes | None = None) -> None:
        """Compare all bytes of the file, or of a version of it, as a new descriptor reads them."""
        found, expected = (path or self.path).read_bytes(), self.content if content is None else content
        if found != expected:
            raise _difference(f"{path or 'the file'} opened anew", found, expected, 0)

    def check_size(self) -> None:
        found = os.stat(self.path).st_size
        if found != self.size:
            raise DifferenceError(f"stat says {found} bytes, should be {self.size}", min(found, self.size))

    def seek_data(self, handle: Handle, offset: int) -> None:
        """What is said to be a hole must be zeros."""
        try:
            start = os.lseek(handle.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            start = self.size
        if any(self.content[offset:start]):
            raise DifferenceError(f"SEEK_DATA from {offset} says {start}, but there are data before", offset)

    def seek_hole(self, handle: Handle, offset: int) -> None:
        """There is a hole at the end at the latest."""
        end = os.lseek(handle.fd, offset, os.SEEK_HOLE)
        if not offset <= end <= self.size:
            raise DifferenceError(f"SEEK_HOLE from {offset} says {end} in {self.size} bytes", offset)

    # changing

    def write(self, handle: Handle, offset: int, data: bytes) -> None:
        if handle.flags & os.O_APPEND:
            offset = self.size
        if handle.is_direct:
            self._aligned[: len(data)] = data
            written = os.pwritev(handle.fd, [memoryview(self._aligned)[: len(data)]], offset)
        else:
            written = os.pwrite(handle.fd, data, offset)
        if written != len(data):
            raise DifferenceError(f"wrote {written} of {len(data)} bytes", offset)
        self._grow(offset)
        self.content[offset : offset + len(data)] = data

    def write_mapped(self, mapping: Mapping, offset: int, data: bytes) -> None:
        mapping.view[offset : offset + len(data)] = data
        self.content[offset : offset + len(data)] = data

    def truncate(self, handle: Handle | None, size: int) -> None:
        os.truncate(self.path if handle is None else handle.fd, size)
        del self.content[size:]
        self._grow(size)

    def allocate(self, handle: Handle, mode: int, offset: int, length: int) -> None:
        """fallocate(2). Raises OSError (EOPNOTSUPP)."""
        if _libc.fallocate(handle.fd, mode, offset, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        end = offset + length
        if mode & COLLAPSE_RANGE:
            del self.content[offset:end]
            return
        if mode & INSERT_RANGE:
            self.content[offset:offset] = bytes(length)
            return
        if not mode & KEEP_SIZE:
            self._grow(end)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            end = min(end, self.size)
            self.content[offset:end] = bytes(max(0, end - offset))

    def copy(self, source: Handle, target: Handle, offset: int, new_offset: int, length: int) -> None:
        """copy_file_range(2) within the file; it may copy less than it was asked for."""
        copied = os.copy_file_range(source.fd, target.fd, length, offset, new_offset)
        data = self.content[offset : offset + copied]
        if len(data) != copied or (copied == 0 and offset < self.size):
            raise DifferenceError(f"copied {copied} bytes from {offset} on in {self.size}", offset)
        self._grow(new_offset)
        self.content[new_offset : new_offset + copied] = data

    def _grow(self, size: int) -> None:
        self.content.extend(bytes(max(0, size - self.size)))

    def _compare(self, how: str, found: bytes, offset: int, length: int) -> None:
        expected = self.content[offset : offset + length]
        if found != expected:
            raise _difference(how, found, expected, offset)


def _difference(how: str, found: bytes, expected: bytes | bytearray, offset: int) -> DifferenceError:
    both = zip(found, expected, strict=False)
    at = next((index for index, (a, b) in enumerate(both) if a != b), min(len(found), len(expected)))
    return DifferenceError(
        f"{how} from {offset} on: {len(found)} bytes, should be {len(expected)}; the first difference is at "
        f"{offset + at}: {found[at : at + 8].hex()} should be {expected[at : at + 8].hex()}",
        offset + at,
    )
