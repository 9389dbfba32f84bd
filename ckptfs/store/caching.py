"""A store whose immutable objects are kept on local disk: commit records and manifest segments are fetched once.

Safe because such objects are never rewritten (FORMAT.md 1) and are checked by hash when they are decoded.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptfs.private import write_private
from ckptfs.store.base import MAX_GET_BYTES, ObjectInfo, Store

_KEPT_PREFIXES = ("c/", "m/")
_SEGMENT = "m_"


class CachingStore:
    """Wraps a store; see store/base.py for the methods."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory

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
