"""Knowing what changed in a directory that we do not serve: by what each path looks like, compared with its last look.

Invariants:
    L1  a path counts as unchanged only if it looks as it did when its bytes were captured, or put there by us
    L2  a look tells nothing if the file's times could be the same after another change: its ctime is not older than the
        filesystem's clock was before the look, or somebody had it open or mapped (a store into a page that is dirty
        already moves no time)
"""

import os
import stat
from collections.abc import Collection, Iterable, Mapping

from ckptfs.capture.changes import LinkGroups
from ckptfs.capture.reach import reach
from ckptfs.fs.leases import is_in_use
from ckptfs.fs.watch.names import is_ours

Look = tuple[int, ...]
Found = dict[bytes, os.stat_result]
"""Path to status, b"" being the directory itself."""


def look_around(root_fd: int) -> Found:
    """Return all paths of a directory that can be in a version.

    Raises:
        OSError: A directory may not be read; names it.
    """
    found = {b"": os.fstat(root_fd)}
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        try:
            fd = os.open(
                reach(root_fd, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd
            )
        except (FileNotFoundError, NotADirectoryError):
            found.pop(directory, None)  # it went while we looked
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(directory)) from error
        try:
            waiting += _look_into(fd, directory, found)
        finally:
            os.close(fd)
    return found


def _look_into(fd: int, directory: bytes, found: Found) -> list[bytes]:
    below = []
    for name in map(os.fsencode, os.listdir(fd)):
        if is_ours(directory, name):
            continue
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it has gone since
        path = directory + b"/" + name if directory else name
        found[path] = status
        if stat.S_ISDIR(status.st_mode):
            below.append(path)
    return below


def link_groups(found: Found, links: LinkGroups) -> None:
    """Tell what has several names."""
    links.clear()
    first: dict[int, bytes] = {}
    for path, status in found.items():
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            name = first.setdefault(status.st_ino, path)
            if name != path:
                links.link(status.st_ino, name, path)


class Looks:
    """What each path looked like when it was as the newest version has it."""

    def __init__(self) -> None:
        self._known: dict[bytes, Look] = {}

    def changed(self, found: Found, in_version: Iterable[bytes]) -> list[bytes]:
        """Return the paths that may differ from the newest version, those included that are gone."""
        changed = [path for path, status in found.items() if self._known.get(path) != _look(path, status)]
        return changed + [path for path in in_version if path not in found]

    def start(self, root_fd: int, found: Found, same: Iterable[bytes], now_ns: int) -> None:
        """Forget all; some paths are as the newest version has them.

        Args:
            same: Those paths.
            now_ns: The filesystem's clock before they were looked at.
        """
        self._known.clear()
        self._remember(root_fd, {path: found[path] for path in same if path in found}, now_ns)

    def captured(
        self,
        root_fd: int,
        changed: Iterable[bytes],
        found: Found,
        taken: Mapping[int, os.stat_result],
        lost: Collection[bytes],
        now_ns: int,
    ) -> None:
        """A version was made.

        Args:
            changed: What was changed, as `changed` returned it.
            found: What had been found then.
            taken: Inode to what it looked like when its bytes were taken.
            lost: Paths that it has not, whatever they look like; of these also such as had not changed.
            now_ns: The filesystem's clock before all this.
        """
        seen = {}
        for path in lost:
            self._known.pop(path, None)
        for path in changed:
            self._known.pop(path, None)
            if path in lost:
                continue
            # one that became another inode meanwhile is looked at again the next time
            if path in found and (status := taken.get(found[path].st_ino)) is not None:
                seen[path] = status
        self._remember(root_fd, seen, now_ns)

    def _remember(self, root_fd: int, seen: Found, now_ns: int) -> None:
        for path, status in seen.items():
            if not path or (status.st_ctime_ns < now_ns and not _is_in_use(root_fd, path, status)):
                self._known[path] = _look(path, status)


def _look(path: bytes, status: os.stat_result) -> Look:
    if not path:
        # our own files change the times of the directory itself
        return (status.st_mode, status.st_uid, status.st_gid)
    return (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _is_in_use(root_fd: int, path: bytes, status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(reach(root_fd, path), flags, dir_fd=root_fd)
    except OSError:
        return True
    try:
        return is_in_use(fd)
    finally:
        os.close(fd)


class Everything(set[int]):
    """The set of all inodes: of none it is known that its bytes are those of the version before, or hold still."""

    def __contains__(self, _: object) -> bool:
        return True
