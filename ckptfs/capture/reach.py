"""Paths that are longer than a system call takes: PATH_MAX counts what one call is given, and a program that works
below the mount's root may name files whose path from the root is longer.

Such a path is walked in steps, and given to the call through the last directory that was opened.
"""

import errno
import os

Reachable = bytes | os.PathLike[bytes]

# PATH_MAX is 4096 with the NUL; the rest is for /proc/self/fd/N/ in front
_STEP_BYTES = 4000


class _Far(os.PathLike[bytes]):
    """A path from an open directory, which is closed when the path is not used any more."""

    __slots__ = ("_fd", "_rest")

    def __init__(self, fd: int, rest: bytes) -> None:
        self._fd = fd
        self._rest = rest

    def __fspath__(self) -> bytes:
        return b"/proc/self/fd/%d/%s" % (self._fd, self._rest)

    def __del__(self) -> None:
        os.close(self._fd)


def reach(root_fd: int, path: bytes) -> Reachable:
    """Return what to give to a system call that takes `root_fd` as its directory, for a path below that.

    It must be kept until the call has returned: what a function is called with is.

    Raises:
        OSError: A directory on the way of a long path is not there, or a name is longer than any can be.
    """
    if len(path) <= _STEP_BYTES:
        return path or b"."
    fd = os.dup(root_fd)
    try:
        while len(path) > _STEP_BYTES:
            end = path.rfind(b"/", 0, _STEP_BYTES)
            if end < 0:
                # the kernel's FUSE lets names through that no filesystem has, in the target of a symlink for one
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            below = os.open(path[:end], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
            path = path[end + 1 :]
    except BaseException:
        os.close(fd)
        raise
    return _Far(fd, path)
