"""Making a watched directory a version of the store; what it holds that is in no version is set aside, never lost."""

import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from ckptfs.capture.reach import reach
from ckptfs.capture.scan import read_xattrs
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Entry, Kind, Tree
from ckptfs.fs.align import timestamp
from ckptfs.fs.watch.looks import Found, look_around
from ckptfs.fs.watch.marker_file import take_file
from ckptfs.fs.watch.names import SAVE, is_temporary
from ckptfs.store.base import Store
from ckptfs.transfer.attributes import kind_format
from ckptfs.transfer.owned import open_owned
from ckptfs.transfer.restore import has_content, restore
from ckptfs.versions.history import History

log = logging.getLogger(__name__)

_SAY_S = 5.0


class _Progress:
    """Says now and then how far a restore is."""

    def __init__(self) -> None:
        self._said_s = time.monotonic()

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if time.monotonic() - self._said_s > _SAY_S:
            self._said_s = time.monotonic()
            log.info("restoring done_bytes=%d total_bytes=%d", done_bytes, total_bytes)


class DirectoryRestorer:
    """Makes one directory this or that version.

    Args:
        directory: The directory.
        root_fd: The same, open.
        unsaved: Where a directory for what is set aside may be made.
        history, store: Of the versions.
    """

    def __init__(self, directory: Path, root_fd: int, unsaved: Path, history: History, store: Store) -> None:
        self._directory = directory
        self._root_fd = root_fd
        self._unsaved = unsaved
        self._history = history
        self._store = store

    def restore(self, record: CommitRecord, base: Tree) -> int:
        """Make the directory a version.

        Args:
            record: Of the version.
            base: What the directory was when it was last saved or restored: what is still as it was then is not kept.

        Returns:
            How many files were set aside.

        Raises:
            CkptfsError: The version cannot be had.
            OSError: The directory cannot be changed.
        """
        tree = self._history.tree(record)
        set_aside = self._clear(tree, base)
        restore(self._history, self._store, record, self._directory, on_progress=_Progress(), keep_target=True)
        return set_aside

    def same(self, tree: Tree, found: Found) -> list[bytes]:
        """Return the paths that are exactly as a version has them; files are read."""
        return [path for path, status in found.items() if self._is_same(path, status, tree.get(path), exactly=True)]

    def remove_temporary(self) -> None:
        """Remove what a restore or a watch that was killed left half done."""
        for place, _, names in os.walk(os.fsencode(self._directory)):
            for name in filter(is_temporary, names):
                os.unlink(os.path.join(place, name))

    def _clear(self, tree: Tree, base: Tree) -> int:
        """Take away all that is neither as the version has it nor a directory of it, deepest first."""
        found = look_around(self._root_fd)
        destination = self._unsaved / f"{timestamp()}-{secrets.token_hex(2)}"
        set_aside = 0
        for path in sorted(found, reverse=True):
            status, entry = found[path], tree.get(path)
            if stat.S_ISDIR(status.st_mode):
                if path and (entry is None or entry.kind is not Kind.DIRECTORY):
                    self._remove_directory(path)
            elif self._is_same(path, status, entry):
                continue
            elif self._holds_nothing(status) or self._is_same(path, status, base.get(path)):
                os.unlink(reach(self._root_fd, path), dir_fd=self._root_fd)
            else:
                self._keep(path, destination)
                set_aside += 1
        if set_aside:
            log.warning("set aside unsaved files=%d directory=%s", set_aside, destination)
        return set_aside

    def _remove_directory(self, path: bytes) -> None:
        take_file(self._root_fd, path + b"/" + SAVE)
        try:
            os.rmdir(reach(self._root_fd, path), dir_fd=self._root_fd)
        except OSError as error:
            # a program has just made something in it
            log.warning("could not remove directory=%r error=%r", os.fsdecode(path), error.strerror)

    def _keep(self, path: bytes, destination: Path) -> None:
        kept = destination / os.fsdecode(path)
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # a rename, or a copy if the cache directory is on another filesystem
        shutil.move(os.path.join(self._directory, os.fsdecode(path)), kept)

    def _holds_nothing(self, status: os.stat_result) -> bool:
        return not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode))

    def _is_same(self, path: bytes, status: os.stat_result, entry: Entry | None, *, exactly: bool = False) -> bool:
        """True if a path holds what an entry says.

        Args:
            exactly: Its attributes as well, and how many names it has.
        """
        if entry is None or stat.S_IFMT(status.st_mode) != kind_format(entry.kind):
            return False
        if exactly and not self._has_attributes(path, status, entry):
            return False
        if entry.kind is Kind.SYMLINK:
            return os.readlink(reach(self._root_fd, path), dir_fd=self._root_fd) == entry.target
        if entry.kind is not Kind.FILE:
            return True
        if status.st_size != entry.size_bytes:
            return False
        try:
            where = os.fspath(reached := reach(self._root_fd, path))
            fd = open_owned(where, os.O_RDONLY | os.O_NONBLOCK, dir_fd=self._root_fd)
            del reached  # it must be there until the call has returned
        except OSError:
            return False
        try:
            return has_content(fd, entry)
        finally:
            os.close(fd)

    def _has_attributes(self, path: bytes, status: os.stat_result, entry: Entry) -> bool:
        shown = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        wanted = (entry.mode, entry.uid, entry.gid)
        if not path:
            return shown == wanted
        if entry.link_id or (status.st_nlink > 1 and entry.kind is not Kind.DIRECTORY):
            return False
        same_xattrs = read_xattrs(self._root_fd, path) == entry.xattrs
        return shown == wanted and status.st_mtime_ns == entry.mtime_ns and same_xattrs


def untouched(tree: Tree, found: Found) -> list[bytes]:
    """Return the paths that look as a restore left them: nobody wrote to them before they were looked at."""
    alike = []
    for path, entry in tree.items():
        status = found.get(path)
        if status is None or stat.S_IFMT(status.st_mode) != kind_format(entry.kind):
            continue
        # the root keeps its own times
        if not path or (
            status.st_mtime_ns == entry.mtime_ns and (entry.kind is not Kind.FILE or status.st_size == entry.size_bytes)
        ):
            alike.append(path)
    return alike


def link_ids(tree: Tree, found: Found, paths: Iterable[bytes]) -> dict[int, int]:
    """Return inode to link id of files that a version knows by several names."""
    return {found[path].st_ino: tree[path].link_id for path in paths if path in found and tree[path].link_id}
