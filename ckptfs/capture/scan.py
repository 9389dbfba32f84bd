"""Reading the attributes of one path of a real tree as a manifest entry."""

import os
import stat
from collections.abc import Sequence

from ckptfs.capture.reach import Reachable, reach
from ckptfs.format.manifest import Entry, Extent, Kind, representable

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}


def descriptor_path(fd: int, path: bytes | None = None) -> Reachable:
    """Return a path below an open directory for the calls that take no dir_fd (xattrs, truncate)."""
    if path is None:
        return b"/proc/self/fd/%d" % fd
    reached = reach(fd, path)
    return b"/proc/self/fd/%d/%s" % (fd, reached) if isinstance(reached, bytes) else reached


def inode_of(root_fd: int, path: bytes) -> int | None:
    """Return a path's inode, None if there is nothing."""
    try:
        return os.stat(reach(root_fd, path), dir_fd=root_fd, follow_symlinks=False).st_ino
    except OSError:
        return None


def read_xattrs(root_fd: int, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return all extended attributes of a path itself, sorted by name; none where the filesystem has none."""
    full = descriptor_path(root_fd, path)
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError:
        return ()
    if not names:
        return ()
    try:
        found = [(os.fsencode(name), os.getxattr(full, name, follow_symlinks=False)) for name in names]
    except PermissionError:
        # our own file with a mode that forbids it (we are not root)
        mode = os.stat(full, follow_symlinks=False).st_mode & 0o7777
        os.chmod(full, mode | 0o400)
        try:
            found = [(os.fsencode(name), os.getxattr(full, name, follow_symlinks=False)) for name in names]
        finally:
            os.chmod(full, mode)
    return tuple(sorted(found))


def make_entry(
    root_fd: int,
    path: bytes,
    status: os.stat_result,
    *,
    mtime_ns: int,
    extents: Sequence[Extent] = (),
    link_id: int = 0,
    torn: bool = False,
) -> Entry:
    """Return the manifest entry of a path whose lstat is given.

    Args:
        extents: Of a file, its content; empty for all else.
    """
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    target = os.readlink(reach(root_fd, path), dir_fd=root_fd) if kind is Kind.SYMLINK else b""
    is_device = kind in (Kind.CHARACTER, Kind.BLOCK)
    return Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=representable(mtime_ns),
        size_bytes=status.st_size if kind is Kind.FILE else len(target),
        link_id=link_id,
        rdev=status.st_rdev if is_device else 0,
        target=target,
        xattrs=read_xattrs(root_fd, path),
        extents=tuple(extents),
        torn=torn,
    )
