"""Files of versions that are shown read-only, kept on local disk under their content's hash.

Two files with the same content, of whatever versions, are one file here. It is `<hash>.part` while it is being filled,
and `<hash>` when it is whole. Several processes may use the directory: they write the same bytes to the same places,
and each takes for present only what it wrote or checked itself.

Nothing is synced: the disk may have a name, and the size, before it has the bytes. So after a restart of the machine no
file counts as whole, and what is right of it is found out chunk by chunk, as it is read.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path

from ckptfs.format.manifest import Chunk, Entry
from ckptfs.fs.hydration.fetching import FetchQueue, Reader
from ckptfs.fs.hydration.filling import Filling
from ckptfs.hashing import hash_bytes
from ckptfs.private import write_private
from ckptfs.small_files import read_small

_PART = ".part"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def content_name(entry: Entry) -> str:
    """Return the hash that names a file's content: of its ranges' lengths and chunk hashes."""
    ranges = (
        b"%d:%s;" % (extent.size_bytes, extent.hash if isinstance(extent, Chunk) else b"") for extent in entry.extents
    )
    return hash_bytes(b"".join(ranges)).hex()


def doubt_after_restart(directory: Path, mark: Path, boot: str) -> None:
    """Take no file for whole if the machine was restarted since somebody last used them.

    Args:
        directory: Where they are kept.
        mark: Says of which boot of the machine they are.
        boot: Its present boot id.

    Raises:
        OSError: The directory cannot be changed.
    """
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # for another process that begins now; who began before has done it
        fcntl.flock(directory_fd, fcntl.LOCK_EX)
        if mark.is_file() and read_small(mark) == boot.encode():
            return
        for name in os.listdir(directory_fd):
            if not name.endswith(_PART):
                os.rename(name, name + _PART, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        # on a full disk the next to begin does it again
        with suppress(OSError):
            write_private(mark, boot.encode())
    finally:
        os.close(directory_fd)


class ContentCache:
    """Files by content; safe for several threads and processes.

    Args:
        directory: Where they are kept.
        queue: Fetches chunks.
    """

    def __init__(self, directory: Path, queue: FetchQueue) -> None:
        self._directory = directory
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._queue = queue
        self._lock = threading.Lock()
        self._filling: dict[str, Filling] = {}
        """Those that are in use."""
        self.on_wanted: Callable[[Entry], None] = lambda entry: None
        """Told when a program waits for a file's data."""

    def open(self, entry: Entry) -> tuple[int, Reader | None]:
        """Return a descriptor, for reading, of a file with an entry's content; and how to read it if it is not whole.

        Raises:
            OSError: No room on the local disk.
        """
        name = content_name(entry)
        with self._lock:
            fd = self._open_kept(name)
            if fd is not None:
                return fd, None
            filling = self._use(name, entry)
            fd = os.open(f"/proc/self/fd/{filling.fd}", os.O_RDONLY | os.O_CLOEXEC)
        return fd, Reader(filling, self._queue, lambda: self.on_wanted(entry))

    def begin(self, entry: Entry) -> Filling | None:
        """Return a file that is to be filled ahead, joined; None if it is whole.

        Raises:
            OSError: No room on the local disk.
        """
        name = content_name(entry)
        with self._lock:
            return None if (self._directory / name).exists() else self._use(name, entry)

    def drop(self, name: str) -> bool:
        """Remove a file; return False if it is in use and not whole."""
        with self._lock:
            if name.removesuffix(_PART) in self._filling:
                return False
            (self._directory / name).unlink(missing_ok=True)
            return True

    def _open_kept(self, name: str) -> int | None:
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        os.utime(fd)  # for the order of removal
        return fd

    def _use(self, name: str, entry: Entry) -> Filling:
        filling = self._filling.get(name)
        if filling is not None and filling.join():
            return filling
        fd = os.open(self._directory / f"{name}{_PART}", os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            is_new = os.fstat(fd).st_size == 0
            os.ftruncate(fd, entry.size_bytes)
            filling = Filling(
                entry,
                suspect=not is_new,
                whole=lambda filling: self._whole(name, filling),
                idle=lambda filling: self._idle(name, filling),
            )
        except BaseException:
            os.close(fd)
            raise
        filling.open(fd)
        self._filling[name] = filling
        if filling.is_filled:
            # nothing but holes
            self._keep(name, filling)
        return filling

    def _idle(self, name: str, filling: Filling) -> None:
        # not under the lock: its holder may be waiting for the filling's
        if self._filling.get(name) is filling:
            del self._filling[name]

    def _whole(self, name: str, filling: Filling) -> None:
        self._keep(name, filling)
        filling.finished()

    def _keep(self, name: str, filling: Filling) -> None:
        """Give a whole file its name. By its descriptor: the name it had may be another process's file by now."""
        try:
            source = f"/proc/self/fd/{filling.fd}"
            os.link(source, name, dst_dir_fd=self._directory_fd, follow_symlinks=True)
            (self._directory / f"{name}{_PART}").unlink(missing_ok=True)
        except OSError:
            pass  # removed meanwhile, or kept by another process: whoever has it open can use it all the same


class MissingContents:
    """The files of a version that are not here, for fetching ahead (prefetch.Missing); the key is the entry's path."""

    def __init__(self, contents: ContentCache, entries: Sequence[Entry]) -> None:
        self._contents = contents
        self._entries = {entry.path: entry for entry in entries}

    def waiting(self) -> Sequence[tuple[bytes, Hashable]]:
        """Return path and key of each."""
        return [(path, path) for path in self._entries]

    def begin(self, key: Hashable) -> Filling | None:
        """Return a file that is to be filled, joined; None if there is nothing to do."""
        entry = self._entries.get(key) if isinstance(key, bytes) else None
        try:
            return self._contents.begin(entry) if entry is not None else None
        except OSError:
            return None
