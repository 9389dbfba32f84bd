"""System calls that the standard library has no function for; they raise OSError as its own functions do."""

import ctypes
import os

from ckptfs.errors import os_error

# linux/fcntl.h, linux/fs.h and linux/falloc.h
AT_FDCWD = -100
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset_bytes: int, size_bytes: int) -> None:
    """fallocate(2)."""
    if _libc.fallocate(fd, mode, offset_bytes, size_bytes) != 0:
        raise os_error(ctypes.get_errno())


def set_signal_at_parents_death(number: int) -> None:
    """prctl(2), PR_SET_PDEATHSIG: this process gets a signal when its parent ends; 0: none."""
    if _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise os_error(ctypes.get_errno())


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(old_fd, old, new_fd, new, flags) != 0:
        raise os_error(ctypes.get_errno(), os.fsdecode(new))
