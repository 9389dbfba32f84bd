"""Saving a watched directory: what looks changed is cloned or copied into a pending version.

Programs are not held back meanwhile. A file that changes under its copy is copied again, three times, and is said to be
torn if it never holds still; files are copied one after the other, so a version holds no one moment of the directory
unless nobody writes to it.
"""

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ckptfs.capture.capture import Captured, Capturer
from ckptfs.capture.changes import ALL_OF_IT, ChangeSet
from ckptfs.fs.note import parse_note
from ckptfs.fs.uploads import Uploads
from ckptfs.fs.watch.looks import Everything, Looks, link_groups, look_around

log = logging.getLogger(__name__)

# a symlink or a device went between two looks at it; a program that makes and removes names all the time hits one
# of these windows of microseconds now and then
_ATTEMPTS = 10
_MOMENTARY = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP)


@dataclass(slots=True)
class DirectorySaver:
    """Captures of one watched directory.

    Args:
        root_fd: The directory.
        capturer: Shares its change set and link groups with this.
        looks: What is known to be as the newest version has it.
        uploads: Gets the versions.
        max_pending_bytes: Local disk that pending versions may keep before a save waits.
        blocked: Called with the time (wall clock) since when a save waits for room, and with None when it goes on.
        is_ending: True when nobody may be kept waiting any more.
    """

    root_fd: int
    capturer: Capturer
    looks: Looks
    uploads: Uploads
    max_pending_bytes: int
    blocked: Callable[[float | None], None]
    is_ending: Callable[[], bool]

    def save(self, text: bytes, clock_ns: int) -> Captured:
        """Make the directory a version, and have it uploaded.

        Args:
            text: Of the marker.
            clock_ns: The filesystem's clock, a moment ago.

        Raises:
            FencedError, NotDurableError: No version can become durable any more.
            OSError: No room, or something may not be read.
        """
        self.uploads.check_allowed()
        self._wait_for_room()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._capture(text, clock_ns)
            except OSError as error:
                if error.errno not in _MOMENTARY or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def has_changes(self) -> bool:
        """True if the directory may differ from the newest version."""
        return bool(self.looks.changed(look_around(self.root_fd), self.capturer.sizes.by_path))

    def _capture(self, text: bytes, clock_ns: int) -> Captured:
        started_s = time.monotonic()
        found = look_around(self.root_fd)
        changed = self.looks.changed(found, self.capturer.sizes.by_path)
        link_groups(found, self.capturer.links)
        changes = self.capturer.changes
        changes.current = ChangeSet(dict.fromkeys(changed, ALL_OF_IT), Everything())
        try:
            captured = self.capturer.capture(parse_note(text), unseen=Everything(), names_move=True)
        finally:
            changes.take()
        self.looks.captured(self.root_fd, changed, found, captured.looks, captured.lost, clock_ns)
        self.uploads.captured(captured.pending, captured.slot, captured.kept_bytes)
        self.capturer.close(captured)
        # who waits for it reads an ordinary file, which cannot be seen
        self.uploads.wake(hurry=True)
        log.info(
            "captured version=%d changed=%d files=%d bytes=%d torn=%d duration_ms=%.1f",
            captured.pending.version,
            len(changed),
            captured.pending.header.files,
            captured.pending.header.bytes,
            captured.torn,
            1000 * (time.monotonic() - started_s),
        )
        return captured

    def _wait_for_room(self) -> None:
        if self._has_room():
            return
        self.blocked(time.time())
        log.warning("blocked a save pending_bytes=%d", self.uploads.pending_bytes)
        try:
            self.uploads.wait_for_change(self._has_room)
        finally:
            self.blocked(None)

    def _has_room(self) -> bool:
        self.uploads.check_allowed()
        return self.is_ending() or self.uploads.pending_bytes < self.max_pending_bytes
