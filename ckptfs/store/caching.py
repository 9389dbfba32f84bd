"""A store whose immutable objects are kept on local disk: commit records and manifest segments are fetched once.

Safe because such objects are never rewritten (FORMAT.md 1) and are checked by hash when they are decoded.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ckptfs.private import write_private
from ckptfs.store.base import MAX_GET_BYTES, ObjectInfo, Store

_KEPT_PREFIXES = ("c/", "m/")
_RECORD, _SEGMENT = "c_", "m_"
# 64 MiB: 8,000 versions of few files, with their pruning, or the 64 largest records that there can be
_MOST_RECORD_BYTES = 64 << 20
_BLOCK_BYTES = 4096
"""What a file takes on disk is a multiple of it, as good as everywhere; most records are smaller."""


class CachingStore:
    """Wraps a store; see store/base.py for the methods.

    Args:
        most_record_bytes: Of local disk for commit records; now and then an eighth more. Nobody drops them otherwise:
            each version adds one or two to history, which keeps them for ever.
    """

    def __init__(self, store: Store, directory: Path, *, most_record_bytes: int = _MOST_RECORD_BYTES) -> None:
        self._store = store
        self._directory = directory
        self._most_record_bytes = most_record_bytes
        self._added_bytes = 0
        """Of records kept since it was looked whether they are too many; about, where several threads keep some."""

    @property
    def url(self) -> str:
        """The wrapped store's."""
        return self._store.url

    def get(self, key: str, *, most_bytes: int = MAX_GET_BYTES) -> bytes:
        """As the wrapped store, but an immutable object comes from disk when it was seen before."""
        if not key.startswith(_KEPT_PREFIXES):
            return self._store.get(key, most_bytes=most_bytes)
        path = self._directory / key.replace("/", "_")
        try:
            return path.read_bytes()
        except OSError:
            pass  # it has not been seen, or was forgotten
        body = self._store.get(key, most_bytes=most_bytes)
        self._keep(path, body)
        return body

    def forget(self, key: str) -> None:
        """Drop a kept object, so that the next get asks the store."""
        (self._directory / key.replace("/", "_")).unlink(missing_ok=True)

    def kept_keys(self, prefix: str) -> list[str]:
        """Return the keys of the kept objects below a prefix of one directory, ascending. Asks nothing of the store."""
        start = prefix.replace("/", "_")
        names = (name for name in os.listdir(self._directory) if name.startswith(start) and "." not in name)
        return sorted(prefix + name.removeprefix(start) for name in names)

    def drop_deleted(self) -> None:
        """Drop kept segments that the store has no more: their versions were pruned.

        One LIST for each thousand segments, none where no segment is kept. Commit records are never deleted.

        Raises:
            StoreError: The store cannot be asked.
            OSError: The directory cannot be read.
        """
        self._drop_oldest_records()
        # before the store is asked: what comes meanwhile is there
        kept = {name for name in os.listdir(self._directory) if name.startswith(_SEGMENT)}
        if not kept:
            return
        # a key sorts after what it begins with, so that the first is among those that come after it
        first = min(kept).replace("_", "/", 1)[:-1]
        there = {info.key.replace("/", "_") for info in self._store.list("m/", after=first)}
        for name in kept - there:
            (self._directory / name).unlink(missing_ok=True)

    def _keep(self, path: Path, body: bytes) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            write_private(temporary, body)
            temporary.rename(path)
        except OSError:
            # a full disk must not make reading fail
            temporary.unlink(missing_ok=True)
            return
        if path.name.startswith(_RECORD):
            self._added_bytes += _on_disk(len(body))
            if self._added_bytes > self._most_record_bytes // 8:
                with suppress(OSError):
                    self._drop_oldest_records()

    def _drop_oldest_records(self) -> None:
        """Drop the records of the oldest commits that are too many; the newest help where the store's are damaged.

        Raises:
            OSError: The directory cannot be read.
        """
        self._added_bytes = 0
        with os.scandir(self._directory) as entries:
            # the names count down, so that the newest come first
            records = sorted(
                (entry for entry in entries if entry.name.startswith(_RECORD)), key=lambda entry: entry.name
            )
        room_bytes = self._most_record_bytes
        for entry in records:
            with suppress(FileNotFoundError):  # another process drops them, too
                room_bytes -= _on_disk(entry.stat().st_size)
                if room_bytes < 0:
                    os.unlink(entry)

    def get_range(self, key: str, offset_bytes: int, size_bytes: int, *, may_end: bool = False) -> bytes:
        """As the wrapped store, always: nothing comes from disk."""
        return self._store.get_range(key, offset_bytes, size_bytes, may_end=may_end)

    def put(self, key: str, body: bytes) -> None:
        """As the wrapped store; an immutable object is kept."""
        self._store.put(key, body)
        if key.startswith(_KEPT_PREFIXES):
            self._keep(self._directory / key.replace("/", "_"), body)

    def create(self, key: str, body: bytes) -> None:
        """As the wrapped store."""
        self._store.create(key, body)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> Iterator[ObjectInfo]:
        """As the wrapped store."""
        return self._store.list(prefix, after=after, limit=limit)

    def delete(self, key: str) -> None:
        """As the wrapped store."""
        self._store.delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """As the wrapped store."""
        self._store.delete_many(keys)

    def close(self) -> None:
        """As the wrapped store."""
        self._store.close()


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
