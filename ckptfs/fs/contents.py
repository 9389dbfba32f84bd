"""Files of versions that are shown read-only: fetched whole, verified, and kept on local disk under their content's
hash.

Two files with the same content, of whatever versions, are one file here. What is kept beyond the limit is removed, the
longest unused first.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ckptfs.errors import CkptfsError
from ckptfs.format.manifest import Chunk, Entry
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.fetch import Fetcher, FetchJob

log = logging.getLogger(__name__)


def content_name(entry: Entry) -> str:
    """Return the hash that names a file's content: of its ranges' lengths and chunk hashes."""
    ranges = (
        b"%d:%s;" % (extent.size_bytes, extent.hash if isinstance(extent, Chunk) else b"") for extent in entry.extents
    )
    return hash_bytes(b"".join(ranges)).hex()


class ContentCache:
    """Whole files by content; safe for several threads and processes (files appear by rename).

    Args:
        directory: Where they are kept.
        limit_bytes: How much may stay; a file just read stays whatever its size.
    """

    def __init__(self, directory: Path, fetcher: Fetcher, limit_bytes: int) -> None:
        self._directory = directory
        self._fetcher = fetcher
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    def open(self, entry: Entry) -> int:
        """Return a descriptor, for reading, of a file with an entry's content.

        Raises:
            CkptfsError: The data are damaged or cannot be had; names the file.
            OSError: No room on the local disk.
        """
        name = content_name(entry)
        fd = self._open_kept(name)
        if fd is not None:
            return fd
        with self._lock:
            lock = self._fetching.setdefault(name, threading.Lock())
        try:
            with lock:
                fd = self._open_kept(name)
                return fd if fd is not None else self._fetch(name, entry)
        finally:
            with self._lock:
                self._fetching.pop(name, None)
            self._shrink(name)

    def has(self, entry: Entry) -> bool:
        """True if opening it needs no fetch."""
        return (self._directory / content_name(entry)).exists()

    def _open_kept(self, name: str) -> int | None:
        path = self._directory / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        os.utime(fd)  # for the order of removal
        return fd

    def _fetch(self, name: str, entry: Entry) -> int:
        temporary = self._directory / f"{name}.{secrets.token_hex(4)}.tmp"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, entry.size_bytes)
            errors: list[CkptfsError | None] = []
            self._fetcher.fetch([FetchJob(entry, writer(fd))], lambda _, error: errors.append(error))
            if errors[0] is not None:
                raise errors[0]
            os.rename(temporary, self._directory / name)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        return fd

    def _shrink(self, spared: str) -> None:
        kept = []
        for item in os.scandir(self._directory):
            try:
                status = item.stat()
            except FileNotFoundError:
                continue
            kept.append((status.st_mtime_ns, status.st_blocks * 512, item.path, item.name))
        excess_bytes = sum(row[1] for row in kept) - self._limit_bytes
        for _, size_bytes, path, name in sorted(kept):
            if excess_bytes <= 0:
                return
            if name != spared and not name.endswith(".tmp"):
                Path(path).unlink(missing_ok=True)
                excess_bytes -= size_bytes


def writer(fd: int) -> Callable[[int, bytes], None]:
    """Return a function that writes bytes at offsets of a file, all of them."""

    def write(offset_bytes: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset_bytes)
            view = view[written:]
            offset_bytes += written

    return write


def prefetch(contents: ContentCache, entries: Sequence[Entry], is_over: Callable[[], bool]) -> None:
    """Fetch files ahead, in order, until all are here or it is over; what fails is left to an open."""
    for entry in entries:
        if is_over():
            return
        try:
            os.close(contents.open(entry))
        except (CkptfsError, OSError) as error:
            log.warning("prefetch failed path=%r error=%r", os.fsdecode(entry.path), str(error))
