"""Files and directories that are made before they are needed, so that no save and no truncation waits for that.

A new inode takes 0.3 to 1 ms on an ext4 without a journal whose files come and go: inodes that were deleted in the last
minutes are gone past one by one (`recently_deleted` in Linux fs/ext4/ialloc.c). A capture needs five of them, and a
captured file that is written anew one.
"""

import os
import secrets
import shutil
import threading
from collections import deque
from pathlib import Path

from ckptfs.cache.directory import empty_directory
from ckptfs.cache.pending import make_draft

# what a training step saves as a rule: a model, an optimizer, a state
_FILES = 4

# So that what somebody waits for is done first
_AFTER_S = 0.005


class Spares:
    """The spares of one mount; with none left, what is taken is made at once.

    Args:
        root: Their directory, on the filesystem of the live tree and of pending versions; it is emptied. What is taken
            is renamed away, so that all in it is a spare or what a process before this one left.

    Raises:
        OSError: It cannot be emptied.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: deque[Path] = deque()
        self._drafts: deque[Path] = deque()
        self._wanted = threading.Event()
        self._ends = threading.Event()
        empty_directory(root)

    def take_file(self) -> Path:
        """Return an empty file that only its owner may read. Raises OSError."""
        try:
            return self._files.popleft()
        except IndexError:
            self.refill()
            return self._make_file()

    def take_draft(self) -> Path:
        """Return a directory for a pending version (pending.py). Raises OSError."""
        try:
            return self._drafts.popleft()
        except IndexError:
            return self._make_draft()

    def fill(self) -> None:
        """Make what is missing. Raises OSError."""
        while len(self._files) < _FILES:
            self._files.append(self._make_file())
        while not self._drafts:
            self._drafts.append(self._make_draft())

    def refill(self) -> None:
        """Have run() make what was taken. Called when nobody waits: two threads at once would wait for each other."""
        self._wanted.set()

    def run(self) -> None:
        """Fill up, again at each refill() and when no file is left, until stop()."""
        while not self._ends.is_set():
            try:
                self.fill()
            except OSError:
                pass  # the disk is full or failing: who needs one now says so
            self._wanted.wait()
            self._wanted.clear()
            self._ends.wait(_AFTER_S)

    def stop(self) -> None:
        """Make no more."""
        self._ends.set()
        self._wanted.set()

    def _make_file(self) -> Path:
        path = self._name("file")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return path

    def _make_draft(self) -> Path:
        path = self._name("draft")
        try:
            make_draft(path)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return path

    def _name(self, kind: str) -> Path:
        return self._root / f"{kind}-{secrets.token_hex(8)}"
