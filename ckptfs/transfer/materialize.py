"""Writing the entries of a version into a real directory: names, kinds, attributes and hard links; no file data.

Invariants:
    W1  nothing outside the target is touched, whatever the tree or the target holds: every step is relative to an open
        directory and follows no symlink (transfer/directories.py)
    W2  a directory gets its final mode and times after all that happens in it, the deepest first
    W3  what stands in the way of a name is replaced by rename, so that a reader sees the old or the new; only a
        directory that holds something is never replaced
"""

import errno
import fcntl
import logging
import os
import secrets
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptfs.format.manifest import Entry, Kind, Tree
from ckptfs.transfer.attributes import apply_attributes, kind_format
from ckptfs.transfer.directories import DirectoryWalker, split_path
from ckptfs.transfer.owned import open_owned
from ckptfs.transfer.temporary import temporary_name, token_of

logger = logging.getLogger(__name__)

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def materialize(tree: Tree, target: Path, *, placeholder: bool) -> None:
    """Make a directory hold a tree's names, exactly but for file data.

    Args:
        tree: In path order; the root entry, when there is one, gives the target's own attributes.
        target: Made if it is missing. What it holds besides the tree stays.
        placeholder: True: regular files get their size, attributes and links, and read as zeros. False: regular files
            are left out, for a caller that writes them itself.

    Raises:
        OSError: With the full path: no room, no permission, or a directory that holds something is in the way.
        CorruptObjectError: A path of the tree is not one.
    """
    with TreeWriter(target) as writer:
        first_names: dict[int, bytes] = {}
        for entry in tree.values():
            if entry.kind is Kind.DIRECTORY:
                writer.make_directory(entry)
            elif entry.kind is not Kind.FILE or placeholder:
                first = first_names.setdefault(entry.link_id, entry.path) if entry.link_id else entry.path
                if first == entry.path:
                    writer.make_node(entry)
                else:
                    writer.make_link(entry.path, first)
        writer.finish()


class TreeWriter:
    """Makes names below one directory. Its methods may be called by several threads.

    Args:
        target: Made if it is missing, with its parents. A symlink given here is followed: it is the caller's choice.
        spare_fd: A directory of the same filesystem where nodes and links that take another's place are made first, for
            a target in which nothing must be left behind by a run that is killed. None: beside their places.
    """

    def __init__(self, target: Path, spare_fd: int | None = None) -> None:
        target.mkdir(parents=True, exist_ok=True)
        self._target = os.fsencode(target)
        self._root_fd = open_owned(target.resolve(), os.O_RDONLY | os.O_DIRECTORY)
        self._walker = DirectoryWalker(self._root_fd)
        self._spare_fd = spare_fd
        self._lock = threading.Lock()
        self._directories: list[Entry] = []
        self._lifted_modes: dict[bytes, int] = {}
        """Of directories that were there before, the mode to put back."""
        self._lost: set[str] = set()
        # 8 hex digits tell the temporary names of one run from those that a killed run left
        self._token = secrets.token_hex(4).encode()
        self._count = 0

    def __enter__(self) -> "TreeWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._walker.close()
        os.close(self._root_fd)

    def be_alone(self) -> bool:
        """Return True if no other run works on this target now. One that begins later will know of this one."""
        # said before it is asked: of two runs that begin at once, each sees the other, and neither is alone
        try:
            fcntl.fcntl(self._root_fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK))
            seen = fcntl.fcntl(self._root_fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK))
        except OSError:
            return False  # a filesystem without locks: then no run knows of another
        (kind,) = struct.unpack_from("h", seen)
        return bool(kind == fcntl.F_UNLCK)

    def temporary_in(self, directory: bytes) -> list[bytes]:
        """Return the paths of what has a temporary name in a directory."""
        above = directory + b"/" if directory else b""
        with self._at(directory):
            names = os.listdir(self._walker.open(directory))
        return [above + name for name in map(os.fsencode, names) if token_of(name) is not None]

    def make_directory(self, entry: Entry, *, keep_existing: bool = False) -> None:
        """Make a directory that can be written to for now; `finish` gives it its attributes.

        Args:
            entry: Its attributes.
            keep_existing: One that is there already keeps its own attributes.
        """
        with self._at(entry.path) as (parent, name):
            existed = not name or self._mkdir(parent, name)
            fd = self._walker.open(entry.path)
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if not (existed and keep_existing):
                self._directories.append(entry)
            elif mode & 0o700 != 0o700:
                self._lifted_modes[entry.path] = mode
            if mode & 0o700 != 0o700 and os.geteuid() != 0:
                os.fchmod(fd, mode | 0o700)

    def make_node(self, entry: Entry) -> None:
        """Make anything but a directory; a regular file of its size, without data."""
        with self._at(entry.path) as (parent, name):
            # by its attributes one that a killed run made is known: it has them before it has its name
            if self._spare_fd is None or entry.kind is not Kind.FILE:
                try:
                    self._create(entry, parent, name)
                    return
                except FileExistsError:
                    pass  # it takes another's place
            temporary = self._temporary_name()
            spare = parent if self._spare_fd is None else self._spare_fd
            if self._create(entry, spare, temporary):
                _replace(spare, temporary, parent, name)

    def make_link(self, path: bytes, first: bytes) -> None:
        """Make a hard link to a name that was made before."""
        with self._at(path) as (parent, name):
            # the walker keeps one directory open: this one has to outlive the next step
            parent = os.dup(parent)
            try:
                *above, last = split_path(first)
                source = self._walker.open(b"/".join(above))
                temporary = self._temporary_name()
                spare = parent if self._spare_fd is None else self._spare_fd
                os.link(last, temporary, src_dir_fd=source, dst_dir_fd=spare, follow_symlinks=False)
                _replace(spare, temporary, parent, name)
                # rename(2) leaves both names if they are links of one inode already
                _unlink(spare, temporary)
            finally:
                os.close(parent)

    def create_temporary(self, path: bytes, size_bytes: int) -> bytes:
        """Make a file of a size, without data, beside the place of a name.

        Returns:
            Its path, for `open_file`, `publish` and `remove`.
        """
        temporary, fd = self.create_open(path, size_bytes)
        os.close(fd)
        return temporary

    def create_open(self, path: bytes, size_bytes: int, token: bytes | None = None) -> tuple[bytes, int]:
        """As create_temporary; returns a descriptor for writing as well, which the caller closes.

        Args:
            token: Of the temporary name; that of this run if it is None.
        """
        with self._at(path) as (parent, _):
            temporary, fd = self._temporary_name(token), -1
            while fd < 0:
                try:
                    fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent)
                except FileExistsError:
                    # another run is at the same file
                    temporary = self._temporary_name(token)
            try:
                os.ftruncate(fd, size_bytes)
            except OSError:
                os.close(fd)
                os.unlink(temporary, dir_fd=parent)
                raise
        return path[: path.rfind(b"/") + 1] + temporary, fd

    def open_file(self, path: bytes, flags: int) -> int:
        """Open a regular file below the target; the caller closes the descriptor.

        Raises:
            OSError: ELOOP for a symlink, EINVAL for anything else that is no regular file.
        """
        with self._at(path) as (parent, name):
            # O_NONBLOCK: opening a FIFO must not wait for its other end
            fd = open_owned(name, flags | os.O_NONBLOCK, dir_fd=parent)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(errno.EINVAL, "not a regular file")
            return fd

    def publish(self, temporary: bytes, entry: Entry, fd: int | None = None) -> None:
        """Give a complete temporary file its attributes and its name.

        Args:
            temporary: Its path, as create_temporary returned it.
            entry: What it is to be.
            fd: A descriptor of it, if there is one.
        """
        if fd is None:
            fd = self.open_file(temporary, os.O_WRONLY)
            try:
                return self.publish(temporary, entry, fd)
            finally:
                os.close(fd)
        with self.naming(entry.path):
            lost = apply_attributes(fd, entry)
        with self._at(entry.path) as (parent, name):
            self._lost.update(lost)
            _replace(parent, temporary.rpartition(b"/")[2], parent, name)

    def leads_to(self, path: bytes, status: os.stat_result) -> bool:
        """True if a name leads to a file that was looked at."""
        try:
            with self._at(path) as (parent, name):
                return os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), status)
        except OSError:
            return False

    def refresh_attributes(self, entry: Entry) -> None:
        """Give a regular file that is there already an entry's attributes."""
        fd = self.open_file(entry.path, os.O_RDONLY)
        try:
            with self.naming(entry.path):
                self._lost.update(apply_attributes(fd, entry))
        finally:
            os.close(fd)

    def remove(self, path: bytes) -> None:
        """Remove a temporary file; one that is gone is no error."""
        with self._at(path) as (parent, name):
            _unlink(parent, name)

    def finish(self) -> None:
        """Give all directories their attributes (W2) and report what the kernel refused."""
        for path, mode in sorted(self._lifted_modes.items(), reverse=True):
            with self._at(path):
                os.fchmod(self._walker.open(path), mode)
        for entry in sorted(self._directories, key=lambda entry: entry.path, reverse=True):
            with self._at(entry.path):
                self._lost.update(apply_attributes(self._walker.open(entry.path), entry))
        if self._lost:
            logger.warning(
                "could not set some attributes target=%s names=%s", os.fsdecode(self._target), sorted(self._lost)
            )

    @contextmanager
    def _at(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Hold the lock and yield a name's parent and last component (the root: itself, b""). Errors name the path."""
        with self._lock, self.naming(path):
            names = split_path(path)
            yield self._walker.open(b"/".join(names[:-1])), names[-1] if names else b""

    @contextmanager
    def naming(self, path: bytes) -> Iterator[None]:
        """Have an OSError say which path of the target it is about."""
        try:
            yield
        except OSError as error:
            full = os.path.join(self._target, path)
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), os.fsdecode(full)) from error

    def _temporary_name(self, token: bytes | None = None) -> bytes:
        self._count += 1
        return temporary_name(token or self._token, self._count)

    def _mkdir(self, parent: int, name: bytes) -> bool:
        """Make a directory, in place of anything that is none. Returns True if it was there."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            return False
        except FileExistsError:
            pass  # what it is, is looked at now
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return True
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o700, dir_fd=parent)
        return False

    def _create(self, entry: Entry, parent: int, name: bytes) -> bool:
        """Make a new name of any kind but a directory, with its attributes. False: it is a device, and we may not."""
        if entry.kind is Kind.FILE:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                os.ftruncate(fd, entry.size_bytes)
                self._lost.update(apply_attributes(fd, entry))
            except BaseException:
                os.unlink(name, dir_fd=parent)
                raise
            finally:
                os.close(fd)
            return True
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
        else:
            try:
                os.mknod(name, 0o600 | kind_format(entry.kind), entry.rdev, dir_fd=parent)
            except PermissionError:
                if entry.kind not in (Kind.CHARACTER, Kind.BLOCK):
                    raise
                # devices are root's alone to make; the rest of the version is still worth having
                self._lost.add("device node")
                return False
        self._lost.update(apply_attributes(b"/proc/self/fd/%d/%s" % (parent, name), entry))
        return True


def _replace(spare: int, temporary: bytes, parent: int, name: bytes) -> None:
    """Rename over whatever has the name, but for a directory that holds something; on failure remove the temporary."""
    try:
        try:
            os.rename(temporary, name, src_dir_fd=spare, dst_dir_fd=parent)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=parent)
            os.rename(temporary, name, src_dir_fd=spare, dst_dir_fd=parent)
    except OSError:
        _unlink(spare, temporary)
        raise


def _unlink(parent: int, name: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _lock(kind: int) -> bytes:
    """Return a struct flock (fcntl(2)) for the first byte, which locks a directory as well as a file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 1, 0)
