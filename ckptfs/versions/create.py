"""A store as a whole: what makes a place a ckptfs store, and whether it keeps two writers apart."""

from ckptfs.errors import (
    AlreadyExistsError,
    CorruptObjectError,
    InvalidInputError,
    NoStoreError,
    NotFoundError,
    UnsafeStoreError,
)
from ckptfs.format.header import MAX_SMALL_BYTES, StoreFormat, decode_format, encode_format
from ckptfs.format.keys import COMMIT_PREFIX, FORMAT_KEY, LEASE_KEY, PACK_PREFIX, SEGMENT_PREFIX
from ckptfs.store.base import Store
from ckptfs.versions.decoded import read_decoded
from ckptfs.versions.opening import PLAIN, Access, new_format
from ckptfs.versions.retry import Retry


def read_format(store: Store) -> StoreFormat:
    """Return a store's format.json. One GET.

    Raises:
        NoStoreError: There is none: the place is no ckptfs store.
        UnsupportedFormatError: A newer ckptfs made it, or it needs a feature that this one lacks.
        CorruptObjectError: It is damaged.
    """
    try:
        return read_decoded(store, FORMAT_KEY, decode_format, most_bytes=MAX_SMALL_BYTES)
    except NotFoundError as error:
        raise NoStoreError(f"{store.url} is not a ckptfs store") from error
    except CorruptObjectError as error:
        raise CorruptObjectError(
            f"{store.url}/{error.fact}",
            hint=f"put {FORMAT_KEY} back from a backup or the bucket's own versions: without it nothing can be read",
        ) from error


def ensure_format(store: Store, retry: Retry, access: Access = PLAIN) -> StoreFormat:
    """Return the store's format.json, writing it first where there is no store yet.

    Raises:
        InvalidInputError: There are objects under the store's own keys, but no format.json: a damaged store, or
            something else's data. Or what `new_format` says.
        KeyMissingError: As new_format.
        UnsupportedFormatError: As read_format.
    """
    try:
        return read_format(store)
    except NoStoreError:
        refuse_if_used(store)
    body = encode_format(new_format(store, access))
    try:
        retry.call(lambda: store.create(FORMAT_KEY, body))
    except AlreadyExistsError:
        pass  # another's, or ours after a lost reply: either way what is there counts
    return read_format(store)


def refuse_if_used(store: Store) -> None:
    """Raise InvalidInputError if a place without format.json holds an object under a key of the format."""
    for prefix in (COMMIT_PREFIX, SEGMENT_PREFIX, PACK_PREFIX, LEASE_KEY):
        for info in store.list(prefix, limit=1):
            if prefix == LEASE_KEY != info.key:
                continue
            try:
                store.get(FORMAT_KEY)
            except NotFoundError as error:
                raise InvalidInputError(
                    f"{store.url} holds {info.key!r} but no {FORMAT_KEY}: it is not a ckptfs store, or a damaged one",
                    hint=f"choose an empty place for a new store; a damaged one needs its {FORMAT_KEY} back",
                ) from error
            return  # another has made the store since


def probe_create_only(store: Store, retry: Retry) -> None:
    """Check that the store refuses to create an object that exists. One GET, one refused PUT.

    format.json is created again with its own bytes, so that a store that overwrites it changes nothing.

    Raises:
        UnsafeStoreError: It overwrote the object.
    """
    body = store.get(FORMAT_KEY)
    try:
        retry.call(lambda: store.create(FORMAT_KEY, body))
    except AlreadyExistsError:
        return
    raise UnsafeStoreError(f"{store.url} overwrote {FORMAT_KEY} although asked only to create it")


def ensure_safe(store: Store, retry: Retry, *, unsafe_single_writer: bool) -> None:
    """Probe the store unless the user vouches for there being one writer only. Raises UnsafeStoreError."""
    if not unsafe_single_writer:
        probe_create_only(store, retry)
