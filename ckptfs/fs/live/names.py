"""Names of the live tree: made, given, taken away and moved, and what that means for all that is known by a name.

What is marked as changed, and who is told, follows an inode from one of its names to the next. Every change is made
inside the gate, after it was marked.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ckptfs.fs.attributes import Caller
from ckptfs.fs.live.tree import LiveTree
from ckptfs.libc import RENAME_EXCHANGE, renameat2


def parent_of(path: bytes) -> bytes:
    """Return the path of the directory that holds a name."""
    return path.rpartition(b"/")[0]


class LiveNames:
    """All of a live tree."""

    def __init__(self, live: LiveTree) -> None:
        self._live = live
        self._root_fd, self._spare_fd = live.root_fd, live.spare_fd
        self._gate, self._changes, self._links = live.gate, live.changes, live.links
        self.before_unlink: Callable[[int, bytes], None] = lambda ino, path: None
        """Told of an inode and a name that it is about to lose, inside the gate."""
        self.on_nameless: Callable[[int], None] = lambda ino: None
        """Told of every inode that loses its last name, inside the gate."""
        self.on_renamed: Callable[[int, bytes], None] = lambda ino, path: None
        """Told of a name that a file has, when the one that was known may be gone; inside the gate."""

    # new names

    def mkdir(self, path: bytes, mode: int, caller: Caller) -> None:
        """Make a directory."""
        with self._gate:
            self._mark_new(path)
            os.mkdir(self._live.at(path), mode, dir_fd=self._root_fd)
            self.give_to(path, mode, caller)

    def mknod(self, path: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a file, fifo, socket or device."""
        with self._gate:
            self._mark_new(path)
            os.mknod(self._live.at(path), mode, device, dir_fd=self._root_fd)
            if stat.S_ISREG(mode):
                self._changes.mark_content(path, self._live.lstat(path).st_ino)
            self.give_to(path, stat.S_IMODE(mode), caller)

    def symlink(self, path: bytes, target: bytes, caller: Caller) -> None:
        """Make a symlink."""
        with self._gate:
            self._mark_new(path)
            os.symlink(target, self._live.at(path), dir_fd=self._root_fd)
            self.give_to(path, None, caller)

    def link(self, source: bytes, path: bytes) -> None:
        """Give an inode a further name."""
        with self._gate:
            self._mark_new(path)
            self._changes.mark_attributes(source)
            os.link(
                self._live.at(source),
                self._live.at(path),
                src_dir_fd=self._root_fd,
                dst_dir_fd=self._root_fd,
                follow_symlinks=False,
            )
            status = self._live.lstat(source)
            self._changes.times.renew(status)
            self._links.link(status.st_ino, source, path)
            if stat.S_ISREG(status.st_mode):
                self._changes.moved(status.st_ino, source)

    def give_to(self, path: bytes, mode: int | None, caller: Caller) -> None:
        """Make a new inode the caller's, with the group that a set-group-id directory hands down."""
        if caller.uid == os.geteuid() and caller.gid == os.getegid():
            return
        sets_ids = mode is not None and bool(mode & (stat.S_ISUID | stat.S_ISGID))
        made = self._live.lstat(path) if sets_ids else None
        above = self._live.lstat(parent_of(path))
        gid = -1 if above.st_mode & stat.S_ISGID else caller.gid
        try:
            os.chown(self._live.at(path), caller.uid, gid, dir_fd=self._root_fd, follow_symlinks=False)
        except PermissionError:
            return  # without CAP_CHOWN what we make stays ours
        if made is not None:
            # chown takes these bits away; a default access control list may have taken others
            os.chmod(self._live.at(path), stat.S_IMODE(made.st_mode), dir_fd=self._root_fd)

    # names that go or change

    def unlink(self, path: bytes) -> None:
        """Remove a name that is no directory's."""
        with self._gate, self._kept(path) as status:
            self._changes.mark_name(path)
            self._changes.mark_attributes(parent_of(path))
            self._mark_left(status.st_ino, path)
            self.before_unlink(status.st_ino, path)
            os.unlink(self._live.at(path), dir_fd=self._root_fd)
            self.lost_name(status, path)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        with self._gate:
            ino = self._live.lstat(path).st_ino
            self._changes.mark_name(path)
            self._changes.mark_attributes(parent_of(path))
            os.rmdir(self._live.at(path), dir_fd=self._root_fd)
            self._changes.times.forget(ino)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, replacing what has the new name; or, as renameat2(2) has it, not replacing (1), or exchanging (2)."""
        # nobody may make a file below a directory between the walk through it and its renaming
        moves_directories = flags or stat.S_ISDIR(self._live.lstat(old).st_mode)
        with self._gate.exclusive() if moves_directories else self._gate, self._kept(new, missing_ok=True) as replaced:
            status = self._live.lstat(old)
            if flags:
                self._rename_with_flags(old, new, flags, status, replaced)
                return
            if replaced is not None and replaced.st_ino == status.st_ino:
                return  # two names of one inode: POSIX wants nothing done
            moved = self._mark_rename(old, new, status)
            if replaced is not None:
                self._mark_left(replaced.st_ino, new)
                self.before_unlink(replaced.st_ino, new)
            os.rename(self._live.at(old), self._live.at(new), src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
            if replaced is not None:
                self.lost_name(replaced, new)
            self._follow_rename([(ino, path, new + path[len(old) :]) for path, ino in moved])
            self._live.changed(new)

    @contextmanager
    def _kept(self, path: bytes, *, missing_ok: bool = False) -> Iterator[Any]:
        """Keep an inode that is about to lose a name: its number must not be given to another file before all that is
        known of it has been forgotten.

        Yields:
            Its status, None if there is nothing and that is no matter.
        """
        try:
            fd = os.open(self._live.at(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
        except FileNotFoundError:
            if not missing_ok:
                raise
            yield None
            return
        try:
            yield os.fstat(fd)
        finally:
            os.close(fd)

    def _rename_with_flags(
        self, old: bytes, new: bytes, flags: int, status: os.stat_result, other: os.stat_result | None
    ) -> None:
        moved = self._mark_rename(old, new, status)
        moved_back = self._mark_rename(new, old, other) if other is not None and flags == RENAME_EXCHANGE else []
        at_old, at_new = self._live.at(old), self._live.at(new)
        renameat2(self._root_fd, os.fspath(at_old), self._root_fd, os.fspath(at_new), flags)
        renamed = [(ino, path, new + path[len(old) :]) for path, ino in moved]
        self._follow_rename(renamed + [(ino, path, old + path[len(new) :]) for path, ino in moved_back])

    def move_out(self, path: bytes, name: bytes, *, keep_name: bool) -> None:
        """Keep an open file that loses this name reachable in the spare directory.

        Args:
            keep_name: The name is about to be replaced by a rename, and must be there until then.
        """
        with self._gate:
            status = self._live.lstat(path)
            if keep_name:
                os.link(
                    self._live.at(path),
                    name,
                    src_dir_fd=self._root_fd,
                    dst_dir_fd=self._spare_fd,
                    follow_symlinks=False,
                )
                return
            self._changes.mark_name(path)
            self._changes.mark_attributes(parent_of(path))
            self._mark_left(status.st_ino, path)
            os.rename(self._live.at(path), name, src_dir_fd=self._root_fd, dst_dir_fd=self._spare_fd)
            self.lost_name(status, path)

    def move_in(self, name: bytes, path: bytes) -> None:
        """Undo a move_out: give a file in the spare directory a name of the tree."""
        with self._gate:
            self._mark_new(path)
            self._changes.mark_content(path, os.stat(name, dir_fd=self._spare_fd, follow_symlinks=False).st_ino)
            os.rename(name, self._live.at(path), src_dir_fd=self._spare_fd, dst_dir_fd=self._root_fd)

    def lost_name(self, status: os.stat_result, path: bytes) -> None:
        """Draw the consequences of a removed name. Called inside the gate."""
        if stat.S_ISDIR(status.st_mode):
            self._changes.times.forget(status.st_ino)
            return
        left = self._links.unlink(status.st_ino, path)
        if left is not None:
            self._known_as(status.st_ino, left)
            self._live.changed(left)
            return
        self._live.hydrator.lost_name(status.st_ino)
        self._changes.forget_inode(status.st_ino)
        self.on_nameless(status.st_ino)

    def _mark_left(self, ino: int, path: bytes) -> None:
        """A name goes away: what was marked by it must be found by another that the inode has."""
        left = next((name for name in self._links.names(ino) if name != path), None)
        if left is None:
            return
        if ino in self._changes.current.content:
            self._changes.mark_content(left, ino)
        else:
            self._changes.mark_attributes(left)

    def _mark_new(self, path: bytes) -> None:
        self._changes.mark_name(path)
        self._changes.mark_attributes(parent_of(path))

    def _mark_rename(self, old: bytes, new: bytes, status: os.stat_result) -> list[tuple[bytes, int]]:
        """Mark all names that a rename changes; return path and inode of all that moves with it."""
        self._mark_new(old)
        self._mark_new(new)
        if stat.S_ISREG(status.st_mode):
            self._changes.moved(status.st_ino, old)
        moved = [(old, status.st_ino)]
        if stat.S_ISDIR(status.st_mode):
            for below, ino, is_file in self._live.walk(old):
                self._changes.mark_name(below)
                self._changes.mark_name(new + below[len(old) :])
                moved.append((below, ino))
                if is_file:
                    self._changes.moved(ino, below)
        return moved

    def _follow_rename(self, renamed: list[tuple[int, bytes, bytes]]) -> None:
        self._links.rename(renamed)
        for ino, _, path in renamed:
            self._known_as(ino, path)

    def _known_as(self, ino: int, path: bytes) -> None:
        self.on_renamed(ino, path)
        stub = self._live.hydrator.get(ino)
        if stub is not None:
            stub.path = path
