"""Copying a file within the cache directory as cheaply as the filesystem can: shared extents, else in-kernel copies."""

import errno
import fcntl
import os

from ckptfs.cache.quiet import leave_atime

# _IOW(0x94, 9, int), linux/fs.h; missing from Python's fcntl before 3.12
_FICLONE = 0x40049409
# the syscall stops at 2 GiB - 4 KiB; smaller steps keep a process killable
_STEP_BYTES = 64 << 20


def copy_data(source_fd: int, target_fd: int, size_bytes: int) -> bool:
    """Make an empty target file hold the first `size_bytes` of a source, holes kept.

    A reflinked target is as long as the source is then, which may be more or less than `size_bytes`. It takes as long
    as the source's dirty pages take to be written to disk.

    Returns:
        True if the filesystem took the source at one moment, between two writes and with no page being stored to.

    Raises:
        OSError: The disk is full or failing.
    """
    leave_atime(source_fd)
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
        return True
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
            raise
    os.ftruncate(target_fd, size_bytes)
    for start, end in data_ranges(source_fd, 0, size_bytes):
        _copy_range(source_fd, target_fd, start, end)
    return False


def data_ranges(fd: int, first: int, last: int) -> list[tuple[int, int]]:
    """Return the [start, end) ranges within [first, last) that are not holes; all of it where holes are not known."""
    ranges = []
    position = first
    while position < last:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno == errno.EINVAL:
                return [(first, last)]
            raise
        if start >= last:
            break
        position = min(os.lseek(fd, start, os.SEEK_HOLE), last)
        ranges.append((start, position))
    return ranges


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    position = start
    while position < end:
        wanted = min(end - position, _STEP_BYTES)
        try:
            copied = os.copy_file_range(source_fd, target_fd, wanted, position, position)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            copied = os.pwrite(target_fd, os.pread(source_fd, min(wanted, 1 << 20), position), position)
        if copied == 0:
            return  # the source ends here; what is missing reads as zeros
        position += copied
