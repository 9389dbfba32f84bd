"""Shared mappings as a C program has them."""

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MS_SYNC = 4


class Mapping:
    """A shared mapping that lives on when the descriptor is closed; Python's own would keep a duplicate of that open.

    Raises:
        OSError: mmap(2) refuses.
    """

    def __init__(self, fd: int, length: int, *, writes: bool) -> None:
        self.writes = writes
        self.length = length
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writes else 0)
        self._address = _libc.mmap(None, length, protection, mmap.MAP_SHARED, fd, 0)
        if self._address == ctypes.c_void_p(-1).value:
            raise _last_error()
        self.view = memoryview((ctypes.c_ubyte * length).from_address(self._address)).cast("B")

    def sync(self) -> None:
        """msync(2) of all of it. Raises OSError."""
        if _libc.msync(self._address, self.length, _MS_SYNC) != 0:
            raise _last_error()

    def close(self) -> None:
        """Unmap it. Raises OSError."""
        self.view.release()
        if _libc.munmap(self._address, self.length) != 0:
            raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
