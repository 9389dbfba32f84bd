"""Opening files and directories of ours whose own mode shuts us out (a process without root's privileges).

The owner of a file may always change its mode, so a mode that forbids reading is lifted for the length of one open(2)
and put back. The inode is pinned by an O_PATH descriptor throughout: no rename or symlink can turn the chmod elsewhere.
"""

import os
import stat


def open_owned(name: os.PathLike[str] | str | bytes, flags: int, *, dir_fd: int | None = None) -> int:
    """Open an existing file or directory, also one of ours whose mode denies it. Symlinks are not followed.

    Args:
        name: Path, its last component not followed; relative to dir_fd when that is given.
        flags: Of open(2), without O_CREAT; O_NOFOLLOW and O_CLOEXEC are added.
        dir_fd: An open directory, or None for the working directory.

    Returns:
        A descriptor, to be closed by the caller.

    Raises:
        OSError: It cannot be opened; a symlink gives ELOOP (ENOTDIR with O_DIRECTORY).
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        status = os.fstat(pinned)
        if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(13, "Permission denied", os.fspath(name))
        path = f"/proc/self/fd/{pinned}"
        mode = stat.S_IMODE(status.st_mode)
        os.chmod(path, mode | 0o700 if stat.S_ISDIR(status.st_mode) else mode | 0o600)
        try:
            # through the magic link, so it is the pinned inode; O_NOFOLLOW would refuse the link itself
            return os.open(path, flags & ~os.O_NOFOLLOW)
        finally:
            os.chmod(path, mode)
    finally:
        os.close(pinned)
