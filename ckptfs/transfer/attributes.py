"""Giving a real file the attributes of a manifest entry: owner, xattrs, mode and modification time.

The order is what the kernel's side effects demand: chown clears setuid bits and file capabilities, an xattr needs write
permission that the final mode may take away, and any of them may touch the times.
"""

import errno
import os
import stat

from ckptfs.errors import CorruptObjectError
from ckptfs.format.manifest import Entry, Kind

_FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
# other namespaces belong to the system (security.selinux is not ours to remove)
_REMOVABLE_XATTRS = ("user.", "system.posix_acl_")
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)


def apply_attributes(where: int | str | bytes | os.PathLike[str] | os.PathLike[bytes], entry: Entry) -> tuple[str, ...]:
    """Give a file, directory, symlink or special file an entry's attributes.

    Args:
        where: An open file or directory; or a path, whose last component is not followed.
        entry: Whose attributes; its kind must be that of the file.

    Returns:
        What the kernel did not allow: names of xattrs, and `owner` if we are root. Empty if all is exact. Without
        root's privileges the owner stays who it is, and then setuid and setgid bits are left out.

    Raises:
        OSError: An attribute that its owner may always set could not be set.
        CorruptObjectError: The file is of another kind.
    """
    if isinstance(where, int):
        return _apply(where, entry)
    if entry.kind is Kind.SYMLINK:
        return _apply_to_symlink(os.fspath(where), entry)
    pinned = os.open(where, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _apply(f"/proc/self/fd/{pinned}", entry)
    finally:
        os.close(pinned)


def kind_format(kind: Kind) -> int:
    """Return the S_IFMT bits of a kind."""
    return _FORMATS[kind]


def _apply(handle: int | str, entry: Entry) -> tuple[str, ...]:
    status = os.stat(handle)
    _check_kind(status, entry)
    lost = []
    if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        lost += _change_owner(handle, entry, follow_symlinks=True)
        status = os.stat(handle)
    lost += _change_xattrs(handle, entry, status)
    mode = entry.mode
    if status.st_uid != entry.uid:
        mode &= ~stat.S_ISUID
    if status.st_gid != entry.gid and entry.kind is not Kind.DIRECTORY:
        mode &= ~stat.S_ISGID
    os.chmod(handle, mode)
    os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
    return tuple(lost)


def _apply_to_symlink(path: str | bytes, entry: Entry) -> tuple[str, ...]:
    status = os.lstat(path)
    _check_kind(status, entry)
    lost = []
    if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        lost += _change_owner(path, entry, follow_symlinks=False)
    for name, value in entry.xattrs:
        lost += _set_xattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
    return tuple(lost)


def _check_kind(status: os.stat_result, entry: Entry) -> None:
    if stat.S_IFMT(status.st_mode) != _FORMATS[entry.kind]:
        raise CorruptObjectError(f"{os.fsdecode(entry.path)!r} is not a {entry.kind.name.lower()} on disk")


def _change_owner(handle: int | str | bytes, entry: Entry, *, follow_symlinks: bool) -> list[str]:
    # the pair, else the group alone: the owner of a file may give it to another of his groups
    for uid, gid in ((entry.uid, entry.gid), (-1, entry.gid)):
        try:
            os.chown(handle, uid, gid, follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        else:
            return [] if uid >= 0 or os.geteuid() != 0 else ["owner"]
    return ["owner"] if os.geteuid() == 0 else []


def _change_xattrs(handle: int | str, entry: Entry, status: os.stat_result) -> list[str]:
    wanted = dict(entry.xattrs)
    present = _list_xattrs(handle)
    doomed = [name for name in present if name.startswith(_REMOVABLE_XATTRS) and os.fsencode(name) not in wanted]
    if not wanted and not doomed:
        return []
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWUSR:
        # user.* needs write permission; the final mode is set after the xattrs
        os.chmod(handle, stat.S_IMODE(status.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
    for name in doomed:
        os.removexattr(handle, name)
    lost = []
    for raw_name, value in wanted.items():
        lost += _set_xattr(handle, raw_name, value, follow_symlinks=True)
    return lost


def _list_xattrs(handle: int | str) -> list[str]:
    try:
        return os.listxattr(handle)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def _set_xattr(handle: int | str | bytes, name: bytes, value: bytes, *, follow_symlinks: bool) -> list[str]:
    try:
        os.setxattr(handle, name, value, follow_symlinks=follow_symlinks)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return [os.fsdecode(name)]
    return []
