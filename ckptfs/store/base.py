"""The store protocol: all that ckptfs asks of an object store.

Rules for every backend:
    S1  after put or create returned, every later get and list by anybody sees the object, whole
    S2  create has exactly one winner among all callers, on all machines, for ever
    S3  get and get_range return bytes of one object state, never a mixture
    S4  only errors of errors.StoreError leave a backend; StoreUnavailableError means "may or may not have been done"
Backends are safe for use by several threads at once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

# 1 GiB: a pack of the format has no more; what reads one object for another's bytes says less
MAX_GET_BYTES = 1 << 30


class ObjectInfo(NamedTuple):
    """One row of a listing."""

    key: str
    size_bytes: int


class Store(Protocol):
    """An object store: keys are ASCII, `/`-separated, relative to the store's root."""

    @property
    def url(self) -> str:
        """The store's address in canonical form, without credentials."""

    def get(self, key: str, *, most_bytes: int = MAX_GET_BYTES) -> bytes:
        """Return a whole object.

        Raises:
            NotFoundError: There is no such object.
            CorruptObjectError: It has more than `most_bytes`, which are not read.
        """

    def get_range(self, key: str, offset_bytes: int, size_bytes: int, *, may_end: bool = False) -> bytes:
        """Return exactly `size_bytes` (at least 1) bytes from an offset.

        Args:
            may_end: The object may end before the range does: then fewer bytes, but at least one.

        Raises:
            NotFoundError: There is no such object.
            CorruptObjectError: The object ends before the range does, or begins.
        """

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing one of that key."""

    def create(self, key: str, body: bytes) -> None:
        """Write an object that must not exist. Raises AlreadyExistsError.

        After a StoreUnavailableError the object may exist: read it back to know.
        """

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix` and is greater than `after`, in key order.

        With limit=1 it is one request.
        """

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete any number of objects, in as few requests as the backend can."""

    def close(self) -> None:
        """Release connections. The store is not used afterwards."""
