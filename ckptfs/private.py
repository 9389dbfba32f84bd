"""What is its owner's alone: files and directories that nobody else may look into, or put another in the place of.

A mount process has no umask (fs/launch.py), and a cache directory may lie below one that everybody writes to.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from ckptfs.errors import os_error

_MOST_LINKS = 40
"""As the kernel follows. Source: path_resolution(7)."""


def write_private(path: Path, body: bytes) -> None:
    """Write a file that only its owner may read. Raises OSError."""
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), body)


def fill_private(path: str, body: bytes) -> None:
    """Write a file that is empty, or not there. Raises OSError.

    It is not truncated: ext4 brings to the disk what was truncated when it is closed, and closing waits
    for that (ext4(5), auto_da_alloc).
    """
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), body)


def _write(fd: int, body: bytes) -> None:
    """Write to a descriptor, and close it."""
    try:
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


def make_private(path: Path) -> None:
    """Make a directory that only this user may enter, or make one of this user's so.

    Raises:
        OSError: It cannot be made; something else is there, or somebody else's directory (PermissionError).
    """
    with suppress(FileExistsError):  # whose it is, and what, is looked at below
        path.mkdir(0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to another user (uid {status.st_uid})", os.fspath(path))
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def exchangeable_part(path: Path) -> str | None:
    """Return the first part of a path that any user could put something else in the place of; None if there is none.

    That is what lies in a directory to which everybody may write, but for a directory like /tmp (of the sticky bit),
    where it must belong to somebody else. Whom a directory belongs to, and its group, are trusted. Symlinks are
    followed, one by one.

    Args:
        path: Of something that exists.

    Raises:
        OSError: A part is missing, or may not be looked at.
    """
    above, rest, links = "/", _parts(os.path.abspath(path)), 0
    while rest:
        part = os.path.join(above, rest.pop())
        container, status = os.stat(above), os.lstat(part)
        is_kept = container.st_mode & stat.S_ISVTX and status.st_uid in (0, os.geteuid())
        if container.st_mode & stat.S_IWOTH and not is_kept:
            return part
        if not stat.S_ISLNK(status.st_mode):
            above = part
            continue
        links += 1
        if links > _MOST_LINKS:
            raise os_error(errno.ELOOP, os.fspath(path))
        target = os.readlink(part)
        above = "/" if target.startswith("/") else above
        rest += _parts(target)
    return None


def _parts(path: str) -> list[str]:
    """Return the names in a path, the last first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
