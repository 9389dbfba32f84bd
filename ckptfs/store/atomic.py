"""Files that appear under their name whole and on disk, or not at all; and the sweeping up after killed writers.

A file is written to a temporary name in the directory of its name (on network filesystems even a link across
directories may be impossible) and fsynced. Then `replace` renames it, or `link` gives it a name that must be free:
link(2) fails when the name exists, and the server of a network filesystem decides it.

Two traps of linking, and the answers:
    A lost reply. NFS repeats a LINK whose reply was lost, and then reports EEXIST for a link that it made itself. The
    temporary file is known to nobody else, so a link count of 2 means that it is ours (open(2), under O_EXCL).
    No links. FAT and some network filesystems have none. Writing to the final name under O_EXCL would show readers a
    part of the file, and a lock file would outlive its holder. FAT is local: there RENAME_NOREPLACE is decided by
    the one kernel that has it mounted. Elsewhere (SMB carries it out as a replacing rename) `link` refuses.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress

from ckptfs.errors import os_error
from ckptfs.libc import AT_FDCWD, RENAME_NOREPLACE, renameat2
from ckptfs.mount_table import rows

_TEMPORARY_PREFIX = ".ckptfs-tmp-"
# a temporary file lives as long as writing one object takes; one of a day ago belongs to a process that was killed
_TEMPORARY_LIFETIME_S = 86400.0

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK})
_LOCAL_WITHOUT_LINKS = frozenset({"vfat", "msdos", "exfat"})


def write_temporary(directory: str, pieces: Iterable[bytes | memoryview], mode: int) -> str:
    """Write a new file of a temporary name, fsync it, and return its path. On an OSError nothing is left.

    Args:
        mode: Its permissions, whatever the umask.
    """
    path = os.path.join(directory, f"{_TEMPORARY_PREFIX}{secrets.token_hex(16)}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _permit(descriptor, mode)
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except BaseException:
        discard(path)
        raise
    finally:
        os.close(descriptor)
    return path


def replace(temporary: str, path: str) -> None:
    """Give a file its final name, whatever has it now."""
    os.rename(temporary, path)


def link(temporary: str, path: str) -> None:
    """Give a file its final name if that is free. The temporary name may stay too: discard it.

    Raises:
        FileExistsError: It is taken by another file.
        OSError: EOPNOTSUPP: the filesystem cannot decide it.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if _is_same_file(temporary, path):
            return
        if error.errno not in _NO_LINKS:
            raise
        if _filesystem_type(os.path.dirname(path)) not in _LOCAL_WITHOUT_LINKS:
            raise os_error(errno.EOPNOTSUPP, path) from error
        _rename_noreplace(temporary, path)


def _is_same_file(temporary: str, path: str) -> bool:
    """Tell whether a link was made although link(2) failed."""
    try:
        status = os.stat(temporary)
        return status.st_nlink == 2 or os.path.samestat(status, os.stat(path))
    except OSError:
        return False


def _filesystem_type(path: str) -> str:
    """Return the type of the filesystem of a path, as /proc/self/mountinfo names it; empty when unknown."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((row.kind for row in rows() if row.device == wanted), "")


def _rename_noreplace(source: str, target: str) -> None:
    """Call renameat2 with RENAME_NOREPLACE. Raises FileExistsError."""
    renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE)


def discard(path: str) -> None:
    """Remove a temporary name, if it is there and can be removed; `sweep` gets the rest in a day."""
    with suppress(OSError):
        os.unlink(path)


def make_directories(path: str, mode: int, *, top: str = "/") -> None:
    """Make a directory and those above it that are missing; they survive a power cut.

    Args:
        mode: Their permissions, whatever the umask.
        top: One above it that is not made: FileNotFoundError.
    """
    parent = os.path.dirname(path)
    if parent != top and not os.path.isdir(parent):
        make_directories(parent, mode, top=top)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _permit(descriptor, mode)
    finally:
        os.close(descriptor)
    sync_directory(parent)


def _permit(descriptor: int, mode: int) -> None:
    """Give a new file or directory what the umask took from its permissions."""
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & mode == mode:
        return
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        # FAT and SMB have one mode for all files, which their mount options give
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut, where its filesystem has a call for that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some FUSE and SMB filesystems fsync no directories: their servers decide when a name is safe
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def sweep(directory: str, *, now_s: float) -> None:
    """Delete what killed writers left in a directory.

    Args:
        directory: May be written to by others meanwhile.
        now_s: The modification time that its filesystem gave to a file just now, so that no two clocks are compared.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.startswith(_TEMPORARY_PREFIX):
                continue
            try:
                if entry.stat(follow_symlinks=False).st_mtime < now_s - _TEMPORARY_LIFETIME_S:
                    os.unlink(entry.path)
            except OSError:
                pass  # another writer was first, or it is not ours to delete
