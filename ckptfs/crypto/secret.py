"""The secret that opens an encrypted store, as a user keeps it."""

from collections.abc import Callable

from ckptfs.errors import InvalidInputError

# 1 MiB: who names a checkpoint as the file of the key has made a mistake, which reading all of it would not show
MAX_SECRET_BYTES = 1 << 20


class Secret:
    """Some bytes that no message, log line or `repr` shows. Line ends after them are no part of them.

    Args:
        data: As they were read.

    Raises:
        InvalidInputError: There is nothing, or too much.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data.rstrip(b"\r\n")
        if not self._data:
            raise InvalidInputError("the key is empty", hint="`openssl rand -hex 32` makes a good one")
        if len(data) > MAX_SECRET_BYTES:
            raise InvalidInputError(f"the key has more than {MAX_SECRET_BYTES} bytes", hint="is it the right file?")

    def reveal(self) -> bytes:
        """Return the bytes: for deriving a key, and for handing them to a process of our own."""
        return self._data

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


KeySource = Callable[[], Secret]
"""Fetches the secret; asked only when there is a store to be opened with it."""
