"""Setting times as utimensat(2) does: each to a value, to the kernel's own "now", or not at all.

"Now" is the kernel's to say: it stamps writes with a clock of its own (coarse, but never behind a finer stamp that it
gave before), and a time that we asked another clock for could look later than a write that follows.
"""

import ctypes
import os
import struct

from ckptfs.errors import os_error
from ckptfs.format.manifest import representable

NOW_NS = -(1 << 100)
"""Instead of a time: now. No time that a filesystem can hold."""

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_AT_SYMLINK_NOFOLLOW = 0x100

_STATX_BTIME = 0x800
# mask and birth time in the 256 bytes of struct statx (linux/stat.h)
_STATX = struct.Struct("=I76xqI164x")


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_long))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.futimens.argtypes = [ctypes.c_int, ctypes.POINTER(_Time * 2)]
_libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Time * 2), ctypes.c_int]


def set_times(fd: int, path: bytes | os.PathLike[bytes] | None, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set the times of a path below an open directory, not following a symlink; without a path, of an open file.

    Args:
        atime_ns, mtime_ns: Nanoseconds since 1970, NOW_NS, or None for one that stays. What no version can hold
            becomes the nearest that it can.

    Raises:
        OSError: As utimensat(2).
    """
    times = (_Time * 2)(_time(atime_ns), _time(mtime_ns))
    if path is None:
        failed = _libc.futimens(fd, ctypes.byref(times))
    else:
        failed = _libc.utimensat(fd, os.fspath(path), ctypes.byref(times), _AT_SYMLINK_NOFOLLOW)
    if failed:
        number = ctypes.get_errno()
        raise os_error(number)


def birth_ns(fd: int, path: bytes | os.PathLike[bytes]) -> int | None:
    """Return when a path below an open directory was made, not following a symlink; None where nobody knows."""
    found = ctypes.create_string_buffer(_STATX.size)
    if not hasattr(_libc, "statx") or _libc.statx(fd, os.fspath(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, found):
        return None
    mask, seconds, nanoseconds = _STATX.unpack(found.raw)
    return int(seconds) * 10**9 + int(nanoseconds) if mask & _STATX_BTIME else None


def _time(value_ns: int | None) -> _Time:
    if value_ns is None:
        return _Time(0, _UTIME_OMIT)
    return _Time(0, _UTIME_NOW) if value_ns == NOW_NS else _Time(*divmod(representable(value_ns), 10**9))
