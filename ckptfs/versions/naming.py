"""Errors of decoders, with the key of the object that did not decode."""

from collections.abc import Iterator
from contextlib import contextmanager

from ckptfs.errors import CorruptObjectError, UnsupportedFormatError


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the object's key in front of what a decoder says; decoders see bytes and do not know where they are from."""
    try:
        yield
    except (CorruptObjectError, UnsupportedFormatError) as error:
        if key in error.fact:
            raise
        raise type(error)(f"{key}: {error.fact}", hint=error.hint) from error
