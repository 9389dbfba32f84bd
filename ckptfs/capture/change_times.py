"""Times as programs are to see them, where the local filesystem's are others.

Linking a file to a pending version, taking that link away when the version is durable, and giving a file its data are
no changes of the file, but they move its ctime: `tar` then says "file changed as we read it", backups read it again,
and git takes it for changed. So the ctime of a file to which this happens is kept here, and renewed by what does change
it. Writes need no renewing: they move mtime as well.

Filling a file with its data moves its mtime, which is set back after each chunk: to that of its version, or to what a
program has given it since, which is kept here as well.
"""

import os
import threading
from collections.abc import Callable

Record = tuple[str, int, int | None]
"""An inode's ctime or mtime, None if none is kept: for a process that takes over from this one."""


class ChangeTimes:
    """The kept times of a live tree. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}
        self._given: dict[int, int] = {}
        self.on_given: Callable[[int, int], None] = lambda ino, mtime_ns: None
        """Told of an mtime that was given to an inode while the process before this one served."""
        self.note: Callable[[Record], None] = lambda record: None
        """Told of every change of them, before it is made."""
        self.lock = threading.RLock()
        """Held while they change; whoever writes all of them down holds it too."""

    def __bool__(self) -> bool:
        return bool(self._kept)

    def keep(self, status: os.stat_result) -> None:
        """A file's ctime, as it is now, is about to be moved by us."""
        with self.lock:
            if status.st_ino not in self._kept:
                self._set(status.st_ino, status.st_ctime_ns)

    def renew(self, status: os.stat_result) -> None:
        """A program has changed a file's attributes or names."""
        with self.lock:
            if status.st_ino in self._kept:
                self._set(status.st_ino, status.st_ctime_ns)

    def forget(self, ino: int) -> None:
        """A file has lost its last name."""
        with self.lock:
            if ino in self._kept:
                self._set(ino, None)
            self.give(ino, None)

    def give(self, ino: int, mtime_ns: int | None) -> None:
        """A program has given a file without data an mtime; None: it is whole, or gone."""
        with self.lock:
            if mtime_ns is not None:
                self.note(("mtime", ino, mtime_ns))
                self._given[ino] = mtime_ns
            elif ino in self._given:
                self.note(("mtime", ino, None))
                del self._given[ino]

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

    def records(self) -> list[Record]:
        """Return records that make these."""
        with self.lock:
            kept: list[Record] = [("ctime", ino, ctime_ns) for ino, ctime_ns in self._kept.items()]
            return kept + [("mtime", ino, mtime_ns) for ino, mtime_ns in self._given.items()]

    def replay(self, record: tuple[object, ...]) -> bool:
        """Do again what a record says; return False if it is not about times."""
        match record:
            case ("ctime", int(ino), int(ctime_ns)):
                self._kept[ino] = ctime_ns
            case ("ctime", int(ino), None):
                self._kept.pop(ino, None)
            case ("mtime", int(ino), int(mtime_ns)):
                self._given[ino] = mtime_ns
                self.on_given(ino, mtime_ns)
            case ("mtime", int(ino), None):
                self._given.pop(ino, None)
            case _:
                return False
        return True

    def _set(self, ino: int, ctime_ns: int | None) -> None:
        self.note(("ctime", ino, ctime_ns))
        if ctime_ns is None:
            del self._kept[ino]
        else:
            self._kept[ino] = ctime_ns
