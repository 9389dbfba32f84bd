"""A store in memory that keeps S1 to S4 of store/base.py, counts requests, and fails on demand as networks do."""

import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from ckptfs.errors import AlreadyExistsError, CorruptObjectError, NotFoundError, StoreUnavailableError
from ckptfs.format.keys import COMMIT_PREFIX
from ckptfs.store.base import MAX_GET_BYTES, ObjectInfo


class Fault(Enum):
    """What becomes of one request."""

    NONE = "done, and answered"
    BEFORE = "not done; no answer"
    REPLY_LOST = "done; no answer"
    REPLY_LOST_AND_RETRIED = "done; no answer to the first attempt, so that the client library sends it again"
    LATE = "done at some later time; no answer"
    TWICE = "done and answered, and done again at some later time"


Faults = Callable[[str, str], Fault]
"""Decides by operation (`get`, `put`, `create`, `list`, `delete`) and key."""


def no_faults(operation: str, key: str) -> Fault:
    return Fault.NONE


def fail_next(operation: str, prefix: str, *faults: Fault) -> Faults:
    """Let the next requests of one kind fail in these ways, one after another."""
    remaining = list(faults)

    def decide(asked: str, key: str) -> Fault:
        return remaining.pop(0) if remaining and asked == operation and key.startswith(prefix) else Fault.NONE

    return decide


class MemoryStore:
    """A Store.

    Args:
        honours_create: False makes it overwrite what it should refuse to, as some do.
        list_lag: Listings lack this many of the newest commit records, as those of NFS may.
    """

    def __init__(self, *, honours_create: bool = True, list_lag: int = 0) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.late: list[tuple[str, str, bytes]] = []
        self.faults: Faults = no_faults
        self.before_request: Callable[[str, str], None] = lambda operation, key: None
        self.on_applied: Callable[[str, str], None] = lambda operation, key: None
        self.honours_create = honours_create
        self.list_lag = list_lag
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return "memory://store"

    def get(self, key: str, *, most_bytes: int = MAX_GET_BYTES) -> bytes:
        self._begin("get", key)
        with self._lock:
            if key not in self.objects:
                raise NotFoundError(f"no object {key}")
            if len(self.objects[key]) > most_bytes:
                raise CorruptObjectError(f"{key} has {len(self.objects[key])} bytes, at most {most_bytes} are right")
            return self.objects[key]

    def get_range(self, key: str, offset_bytes: int, size_bytes: int, *, may_end: bool = False) -> bytes:
        data = self.get(key)[offset_bytes : offset_bytes + size_bytes]
        if len(data) != size_bytes and not (may_end and data):
            raise CorruptObjectError(f"{key} is shorter than {offset_bytes + size_bytes}")
        return data

    def put(self, key: str, body: bytes) -> None:
        self._write("put", key, body)

    def create(self, key: str, body: bytes) -> None:
        self._write("create", key, body)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> Iterator[ObjectInfo]:
        self._begin("list", prefix)
        with self._lock:
            keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
            keys = keys[self.list_lag if prefix == COMMIT_PREFIX else 0 :][:limit]
            return iter([ObjectInfo(key, len(self.objects[key])) for key in keys])

    def delete(self, key: str) -> None:
        self._write("delete", key, b"")

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def close(self) -> None:
        return None

    def count(self, operation: str) -> int:
        """Return how many requests of a kind were made."""
        return sum(1 for asked, _ in self.requests if asked == operation)

    def deliver(self, index: int = 0) -> None:
        """Let a request that the network held back take effect now. Nobody hears the answer."""
        with self._lock:
            operation, key, body = self.late.pop(index)
            try:
                self._apply(operation, key, body)
            except AlreadyExistsError:
                pass

    def _begin(self, operation: str, key: str) -> Fault:
        self.before_request(operation, key)
        with self._lock:
            self.requests.append((operation, key))
        fault = self.faults(operation, key)
        if fault is Fault.BEFORE or (fault is not Fault.NONE and operation in ("get", "list")):
            raise StoreUnavailableError(f"{operation} {key}: no answer")
        return fault

    def _write(self, operation: str, key: str, body: bytes) -> None:
        fault = self._begin(operation, key)
        with self._lock:
            if fault in (Fault.LATE, Fault.TWICE):
                self.late.append((operation, key, body))
            if fault is not Fault.LATE:
                self._apply(operation, key, body)
            if fault is Fault.REPLY_LOST_AND_RETRIED:
                self._apply(operation, key, body)
        if fault in (Fault.REPLY_LOST, Fault.LATE):
            raise StoreUnavailableError(f"{operation} {key}: no answer")

    def _apply(self, operation: str, key: str, body: bytes) -> None:
        if operation == "create" and self.honours_create and key in self.objects:
            raise AlreadyExistsError(f"{key} exists")
        if operation == "delete":
            self.objects.pop(key, None)
        else:
            self.objects[key] = body
        self.on_applied(operation, key)
