"""Asking the kernel, by way of a lease, whether anybody else uses a file."""

import errno
import fcntl
import os
import signal

NOBODY_ELSE = fcntl.F_WRLCK
"""Nobody else has it open or mapped."""
NO_WRITER = fcntl.F_RDLCK
"""Nobody has it open for writing."""


def is_granted(fd: int, lease: int) -> bool | None:
    """Take a lease and give it back at once.

    Args:
        fd: Of a regular file; for NO_WRITER, open for reading only.
        lease: NOBODY_ELSE or NO_WRITER.

    Returns:
        None where it cannot be told: a filesystem without leases, or another user's file.

    Source: fcntl(2), "Leases".
    """
    try:
        # whoever opens it meanwhile breaks the lease; the signal for that is to end nobody
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, lease)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def is_in_use(fd: int) -> bool:
    """True if somebody else is known to have a file open or mapped. Reads the inode's own reference counts."""
    return is_granted(fd, NOBODY_ELSE) is False


def is_being_written(root_fd: int, path: os.PathLike[bytes] | bytes) -> bool:
    """True if somebody is known to have a file open for writing; False as well if it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root_fd)
    except OSError:
        return False
    try:
        return is_granted(fd, NO_WRITER) is False
    finally:
        os.close(fd)
