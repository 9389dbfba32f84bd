"""A store in a directory of a local or network filesystem: an object is a file, its key the path.

An object appears whole and on disk, and create has one winner, as store/atomic.py tells. A name that begins with a
dot is no object: it is a temporary file, or the filesystem's own (`.nfs...` of NFS, `.snapshot`).

Who may read and write the directory may read and write the objects: they have its permissions, whatever the umask of
the process that makes them. A directory that is made here is its owner's alone.

Where the directory's filesystem is not mounted, the mount point is in its place, which anything could be written to: a
directory that is not the one that was opened is the store only if it has the same format.json.

On NFS another machine may list a new object late, by the attribute cache of directories (acdirmax, 60 s by default).
create is right all the same: the server decides it.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote_from_bytes

from ckptfs.errors import (
    AlreadyExistsError,
    CorruptObjectError,
    NotFoundError,
    StoreAccessError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from ckptfs.format.header import MAX_SMALL_BYTES
from ckptfs.format.keys import FORMAT_KEY
from ckptfs.store import atomic
from ckptfs.store.base import MAX_GET_BYTES, ObjectInfo
from ckptfs.store.pace import Pace

# a reader on NFS gets ESTALE when its file is replaced (put of the same key) between lookup and read
_READ_TRIES = 3
# Linux reads at most 2 GiB less a page at once
_READ_BYTES = 1 << 30

_PRIVATE = 0o700
_SHARED = 0o2775
"""What objects take of their directory's permissions: all but that everybody may write, as to /tmp."""

_HINT_SPACE = "free space there, or raise the quota; what could not be stored is tried again"
_HINT_DIRECTORY = "is the filesystem that holds it mounted?"


class FileStore:
    """Objects as files below a directory; see store/base.py for the methods.

    Args:
        directory: An absolute path.
        create: Make the directory if it is missing.

    Raises:
        StoreMissingError: It does not exist, or is no directory.
        StoreAccessError: It may not be made, or not be looked at.
    """

    def __init__(self, directory: Path, *, create: bool = False, pace: Pace | None = None) -> None:
        self._pace = pace
        self._root = os.fspath(directory)
        self._lock = threading.Lock()
        self._swept: set[str] = set()
        self._known: tuple[int, int] | None = None
        """Device and inode of the directory that is known to be the store."""
        self._format: bytes | None = None
        """Its format.json, once that was read or written."""
        with self._errors("open"):
            if create:
                atomic.make_directories(self._root, _PRIVATE)
            self._mode = _SHARED & self._require_root()

    @property
    def url(self) -> str:
        """`file:///DIRECTORY`, percent-encoded where a URL needs it."""
        return f"file://{quote_from_bytes(os.fsencode(self._root))}"

    def get(self, key: str, *, most_bytes: int = MAX_GET_BYTES) -> bytes:
        """Return a whole object. Raises NotFoundError, CorruptObjectError."""

        def read(descriptor: int) -> bytes:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > most_bytes:
                raise CorruptObjectError(f"{self._name(key)} has {size_bytes} bytes, at most {most_bytes} are right")
            return _read_at(descriptor, 0, size_bytes)

        body = self._read(key, read)
        self._take_format(key, body)
        return body

    def get_range(self, key: str, offset_bytes: int, size_bytes: int, *, may_end: bool = False) -> bytes:
        """Return exactly `size_bytes` bytes from an offset. Raises NotFoundError, CorruptObjectError."""
        body = self._read(key, lambda descriptor: _read_at(descriptor, offset_bytes, size_bytes))
        if len(body) < size_bytes and not (may_end and body):
            end_bytes = offset_bytes + size_bytes
            raise CorruptObjectError(
                f"{self._name(key)} ends before byte {end_bytes} (bytes {offset_bytes} to {end_bytes} were asked for)"
            )
        return body

    def _read(self, key: str, read: Callable[[int], bytes]) -> bytes:
        path = self._path(key)
        tries = 0
        with self._errors("read", key):
            while True:
                tries += 1
                try:
                    # a pipe that somebody put there would be waited for
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                    try:
                        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                            raise FileNotFoundError(errno.ENOENT, "it is no regular file", path)
                        return read(descriptor)
                    finally:
                        os.close(descriptor)
                except OSError as error:
                    if error.errno != errno.ESTALE or tries == _READ_TRIES:
                        raise

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing one of that key."""
        self._write(key, body, atomic.replace)

    def create(self, key: str, body: bytes) -> None:
        """Write an object that must not exist.

        Raises:
            AlreadyExistsError: It exists.
            UnsafeStoreError: The filesystem cannot decide between two writers.
        """
        self._write(key, body, atomic.link)

    def _write(self, key: str, body: bytes, publish: Callable[[str, str], None]) -> None:
        path = self._path(key)
        directory = os.path.dirname(path)
        with self._errors("write", key):
            self._require_root()
            if not os.path.isdir(directory):
                # the root itself is not made: it may be unmounted, also since it was looked at
                atomic.make_directories(directory, self._mode | stat.S_IRWXU, top=self._root)
            pieces = self._pace.pieces(body) if self._pace else [body]
            temporary = atomic.write_temporary(directory, pieces, (self._mode | stat.S_IRUSR | stat.S_IWUSR) & 0o666)
            try:
                self._sweep_once(directory, temporary)
                publish(temporary, path)
            finally:
                atomic.discard(temporary)
            # without it a power cut could take back the name of an object that was reported as stored
            atomic.sync_directory(directory)
        try:
            self._require_root()
        except OSError as error:
            raise StoreUnavailableError(
                f"cannot tell whether {self._name(key)} was written: {error.strerror}", hint=_HINT_DIRECTORY
            ) from error
        self._take_format(key, body)

    def _sweep_once(self, directory: str, temporary: str) -> None:
        """Sweep a directory, once in this object's life: it reads all its names."""
        with self._lock:
            if directory in self._swept:
                return
            self._swept.add(directory)
        atomic.sweep(directory, now_s=os.stat(temporary).st_mtime)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix` and is greater than `after`, in key order.

        One directory is read at a time, and of its files only those that are yielded are looked at.
        """
        with self._errors("list", prefix):
            self._require_root()
        found = self._walk(prefix[: prefix.rfind("/") + 1], prefix, after)
        while limit is None or limit > 0:
            with self._errors("list", prefix):
                row = next(found, None)
                if row is None:
                    # nothing, or no more, only if this is what was listed
                    self._require_root()
                    return
            yield row
            if limit is not None:
                limit -= 1

    def _walk(self, directory_key: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        for key in self._keys(directory_key, prefix, after):
            if key.endswith("/"):
                yield from self._walk(key, prefix, after)
                continue
            try:
                status = os.stat(os.path.join(self._root, key))
            except FileNotFoundError:
                # deleted since the directory was read
                continue
            if stat.S_ISREG(status.st_mode):
                yield ObjectInfo(key, status.st_size)

    def _keys(self, directory_key: str, prefix: str, after: str) -> Sequence[str]:
        """Return the sorted keys of one directory that a listing needs.

        A directory stands as `name/`, which its objects' keys begin with: so "a-b" sorts before what is in "a/".
        """
        keys = []
        try:
            with os.scandir(os.path.join(self._root, directory_key)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    key = f"{directory_key}{entry.name}/" if entry.is_dir() else directory_key + entry.name
                    # a directory's key is no object: it matters when the prefix or `after` leads into it
                    in_prefix = key.startswith(prefix) or (entry.is_dir() and prefix.startswith(key))
                    if in_prefix and (key > after or (entry.is_dir() and after.startswith(key))):
                        keys.append(key)
        except (FileNotFoundError, NotADirectoryError):
            # nothing was written below this prefix yet
            return []
        keys.sort()
        return keys

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error.

        Not fsynced: an object that a power cut brings back is one that nothing names.
        """
        path = self._path(key)
        with suppress(NotFoundError), self._errors("delete", key):
            os.unlink(path)

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete any number of objects."""
        for key in keys:
            self.delete(key)

    def close(self) -> None:
        """Nothing is kept open between calls."""

    def _path(self, key: str) -> str:
        """Return the path of an object.

        Raises:
            StoreError: The key would lead out of the store, or is no name of a file.
        """
        parts = key.split("/")
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            raise StoreError(f"{key!r} is not a key that {self.url} can hold")
        return os.path.join(self._root, key)

    def _name(self, key: str) -> str:
        return os.path.join(self._root, key) if key else self._root

    def _require_root(self) -> int:
        """Return the permissions of the store's directory, which must be there."""
        status = os.stat(self._root)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._root)
        found = (status.st_dev, status.st_ino)
        if found != self._known:
            if self._known is not None:
                self._require_same_format()
            self._known = found
        return stat.S_IMODE(status.st_mode)

    def _require_same_format(self) -> None:
        """Another directory is there now: the store's, mounted again or put back, or its mount point alone."""
        try:
            descriptor = os.open(self._path(FORMAT_KEY), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "another directory is in its place", self._root) from error
        try:
            body = _read_at(descriptor, 0, MAX_SMALL_BYTES)
        finally:
            os.close(descriptor)
        if body != (self._format or body):
            raise FileNotFoundError(errno.ENOENT, "another store is in its place", self._root)

    def _take_format(self, key: str, body: bytes) -> None:
        if key == FORMAT_KEY and self._format is None:
            self._format = body

    @contextmanager
    def _errors(self, operation: str, key: str = "") -> Iterator[None]:
        """Turn every OSError into a store error."""
        try:
            yield
        except OSError as error:
            raise self._translated(error, operation, key) from error

    def _translated(self, error: OSError, operation: str, key: str) -> StoreError:
        fact = f"cannot {operation} {self._name(key)}: {error.strerror or error}"
        match error.errno:
            case errno.EEXIST:
                return AlreadyExistsError(f"{self._name(key)} exists already")
            case errno.ENOENT | errno.ENOTDIR | errno.EISDIR:
                return self._absent(fact, operation, key)
            case errno.EACCES | errno.EPERM:
                return StoreAccessError(fact, hint=f"give this user (uid {os.geteuid()}) access to {self._root}")
            case errno.EROFS:
                return StoreAccessError(fact, hint=f"{self._root} is on a filesystem that is mounted read-only")
            case errno.ENOSPC | errno.EDQUOT:
                return StoreUnavailableError(fact, hint=_HINT_SPACE)
            case errno.EOPNOTSUPP:
                return UnsafeStoreError(
                    f"the filesystem of {self._root} has no hard links: two writers could not be told apart",
                    hint="use a directory of a filesystem that has them, or an s3:// store",
                )
            case errno.ENAMETOOLONG | errno.EINVAL | errno.EFBIG | errno.ELOOP:
                return StoreError(fact)
            case _:
                return StoreUnavailableError(fact, hint=_HINT_DIRECTORY)

    def _absent(self, fact: str, operation: str, key: str) -> StoreError:
        """Tell an object that is not there from a store that is not there."""
        try:
            self._require_root()
        except OSError as error:
            return StoreMissingError(f"{self._root} cannot be used: {error.strerror}", hint=_HINT_DIRECTORY)
        if operation in ("read", "delete"):
            return NotFoundError(f"there is no object {self._name(key)}")
        return StoreError(fact)


def _read_at(descriptor: int, offset_bytes: int, size_bytes: int) -> bytes:
    """Return `size_bytes` bytes from an offset; fewer only where the file ends."""
    # a range past the end must not cost memory for bytes that are not there
    size_bytes = max(0, min(size_bytes, os.fstat(descriptor).st_size - offset_bytes))
    pieces = []
    while size_bytes > 0:
        piece = os.pread(descriptor, min(size_bytes, _READ_BYTES), offset_bytes)
        if not piece:
            break
        pieces.append(piece)
        offset_bytes += len(piece)
        size_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
