"""What an operation says of a file: attributes as every transport can send them, and who asks."""

import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple


class Caller(NamedTuple):
    """The process that made a system call."""

    uid: int
    gid: int
    pid: int
    """Thread id; 0 if it lives outside our pid namespace."""


class Attributes(NamedTuple):
    """One inode as stat(2) shows it."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size_bytes: int
    blocks: int = 0
    """Of 512 bytes."""
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


Look = Callable[[bytes], Attributes]
"""Returns a path's attributes. Raises OSError if there is no such path."""


class Listed(NamedTuple):
    """One name in a directory."""

    name: bytes
    ino: int
    format: int
    """What S_IFMT leaves of the mode; 0 if it is not known."""


def from_status(status: os.stat_result, nlink: int) -> Attributes:
    """Return the attributes of a real file, with the number of names that the mount gives it."""
    return Attributes(
        ino=status.st_ino,
        mode=status.st_mode,
        nlink=nlink,
        uid=status.st_uid,
        gid=status.st_gid,
        size_bytes=status.st_size,
        blocks=status.st_blocks,
        rdev=status.st_rdev,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def virtual_file(ino: int, mode: int, directory: Attributes, size_bytes: int) -> Attributes:
    """Return the attributes of a control file, which belongs to whoever owns the directory that shows it."""
    now_ns = time.time_ns()
    return Attributes(
        ino=ino,
        mode=stat.S_IFREG | mode,
        nlink=1,
        uid=directory.uid,
        gid=directory.gid,
        size_bytes=size_bytes,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
    )
