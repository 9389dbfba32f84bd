"""A fresh inode for a name whose file is about to be truncated to nothing while a pending version shares its bytes.

Otherwise the pending version would get a copy of what is about to be thrown away.
"""

import errno
import os

from ckptfs.capture.scan import read_xattrs
from ckptfs.errors import os_error
from ckptfs.fs.live.names import parent_of
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.times import NOW_NS, set_times


def give_fresh_inode(live: LiveTree, path: bytes, ino: int) -> int | None:
    """Give the name of a file that nobody has open a fresh inode where that spares a copy. Called inside the gate.

    Returns:
        A descriptor that holds the old one, None if the name still has it.
    """
    if not live.guards.is_guarded(ino) or live.links.count(ino) > 1:
        return None
    status, above = live.lstat(path), parent_of(path)
    above_status = live.lstat(above)
    held_fd: int | None = None
    fresh = live.spares.take_file()
    fd = os.open(fresh, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.chown(fd, status.st_uid, status.st_gid)
        for name, value in read_xattrs(live.root_fd, path):
            os.setxattr(fd, name, value)
        os.chmod(fd, status.st_mode & 0o7777)
        set_times(fd, None, status.st_atime_ns, NOW_NS)
        live.changes.mark_content(path, os.fstat(fd).st_ino)
        live.changes.times.keep(above_status)
        held_fd = os.open(live.at(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=live.root_fd)
        if os.fstat(held_fd).st_ino != ino:
            raise os_error(errno.ESTALE)  # renamed meanwhile, which is the caller's to see
        os.rename(fresh, live.at(path), dst_dir_fd=live.root_fd)
        live.changes.forget_inode(ino)
        live.hydrator.lost_name(ino)
    except OSError as error:
        if held_fd is not None:
            os.close(held_fd)
        os.unlink(fresh)
        if error.errno == errno.ENOSPC:
            raise
        return None  # copying does it as well
    finally:
        os.close(fd)
    # a truncation does not touch the directory's times
    times = (above_status.st_atime_ns, above_status.st_mtime_ns)
    os.utime(live.at(above), ns=times, dir_fd=live.root_fd)
    return held_fd
