"""Reading a whole object and decoding it.

An object that does not decode is asked for once more, of the store itself: what came may have been damaged on its way,
or in what is kept on local disk, and the object be whole. A second failure is damage.
"""

from collections.abc import Callable
from typing import TypeVar

from ckptfs.errors import CorruptObjectError, UnsupportedFormatError
from ckptfs.store.base import Store
from ckptfs.store.caching import CachingStore
from ckptfs.versions.naming import naming

T = TypeVar("T")


def read_decoded(store: Store, key: str, decode: Callable[[bytes], T], *, most_bytes: int) -> T:
    """Return what a decoder makes of an object of at most so many bytes.

    Raises:
        NotFoundError: There is no such object.
        CorruptObjectError, UnsupportedFormatError: The decoder's, naming the object.
    """
    try:
        return decode(store.get(key, most_bytes=most_bytes))
    # an unknown version may be a known one with a bit flipped
    except (CorruptObjectError, UnsupportedFormatError):
        if isinstance(store, CachingStore):
            store.forget(key)
    body = store.get(key, most_bytes=most_bytes)
    with naming(key):
        return decode(body)
