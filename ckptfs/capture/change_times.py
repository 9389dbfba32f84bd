"""Change times as programs are to see them.

Linking a file to a pending version, taking that link away when the version is durable, and giving a file its data are
no changes of the file, but they move its ctime: `tar` then says "file changed as we read it", and backups read it
again. So the ctime of a file to which this happens is kept here, and renewed by what does change it. Writes need no
renewing: they move mtime as well.
"""

import os


class ChangeTimes:
    """The kept ctimes of a live tree."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def keep(self, status: os.stat_result) -> None:
        """A file's ctime, as it is now, is about to be moved by us."""
        self._kept.setdefault(status.st_ino, status.st_ctime_ns)

    def renew(self, status: os.stat_result) -> None:
        """A program has changed a file's attributes or names."""
        if status.st_ino in self._kept:
            self._kept[status.st_ino] = status.st_ctime_ns

    def forget(self, ino: int) -> None:
        """A file has lost its last name."""
        self._kept.pop(ino, None)

    def shown(self, status: os.stat_result, mtime_ns: int) -> int:
        """Return the ctime to show.

        Args:
            mtime_ns: The mtime that is shown.
        """
        kept_ns = self._kept.get(status.st_ino)
        if kept_ns is None:
            return status.st_ctime_ns
        # a time set in the future is no change in the future
        return max(kept_ns, min(mtime_ns, status.st_ctime_ns))
