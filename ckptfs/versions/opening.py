"""Opening a store: what a client brings along, and what a store asks for before its objects can be read.

Rules:
    O1  a key is never given in vain: a store that is not encrypted is refused when a key is given. Else whoever can
        replace a store could have a client take, and write, plain data for encrypted
    O2  whether a store is encrypted is decided when it is made, and never changes
"""

import secrets
import time
from dataclasses import dataclass

from ckptfs.cache.high_water import HighWater
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import InvalidInputError, KeyMissingError
from ckptfs.format.header import ENCRYPTED, StoreFormat
from ckptfs.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a client brings along."""

    key: KeySource | None = None
    """Where the key is, if one is given."""
    encrypts: bool = False
    """A store that is made now is encrypted, and one that is there must be."""
    high_water: HighWater | None = None
    """What has been seen of stores before."""


PLAIN = Access()


def new_format(store: Store, access: Access) -> StoreFormat:
    """Return the format.json of a store that is made now.

    Raises:
        KeyMissingError: It is to be encrypted, and no key is given.
        InvalidInputError: A key is given, but it is not said that the store is to be encrypted (O1).
    """
    store_id, time_ns = secrets.token_hex(16), time.time_ns()
    if not access.encrypts:
        if access.key is not None:
            raise InvalidInputError(
                f"a key is given, but {store.url} is new and would not be encrypted",
                hint="add --encrypt to make an encrypted store, or leave the key out",
            )
        return StoreFormat(store_id=store_id, time_ns=time_ns)
    if access.key is None:
        raise KeyMissingError(
            f"{store.url} is to be encrypted, and no key is given",
            hint="give one with --key-file FILE, --key-command COMMAND or CKPTFS_KEY; `openssl rand -hex 32` makes one",
        )
    from ckptfs.crypto.sealing import StoreKey

    check = StoreKey(access.key(), bytes.fromhex(store_id)).check.hex()
    return StoreFormat(features=(ENCRYPTED,), store_id=store_id, time_ns=time_ns, key_check=check)


def unlock(store: Store, store_format: StoreFormat, access: Access) -> Store:
    """Return a store through which objects are read and written as they are meant.

    Args:
        store: As it is opened by its address; one that was unlocked before is returned as it is.
        store_format: Its format.json.
        access: What the client has.

    Raises:
        KeyMissingError: It is encrypted, and no key is given, or another.
        InvalidInputError: It is not encrypted, but the client expects it to be (O1).
    """
    if not store_format.is_encrypted:
        if access.encrypts or access.key is not None:
            raise InvalidInputError(
                f"{store.url} is not encrypted, but {'--encrypt' if access.encrypts else 'a key'} was given",
                hint="encryption is chosen when a store is made: leave it out for this one, or take an empty place",
            )
        return store
    # 15 ms, which whoever has no encrypted store need not wait for
    from ckptfs.crypto.sealing import StoreKey
    from ckptfs.store.sealed import SealedStore

    if isinstance(store, SealedStore):
        return store
    if access.key is None:
        raise KeyMissingError(f"{store.url} is encrypted, and no key was given")
    key = StoreKey(access.key(), bytes.fromhex(store_format.store_id))
    if not secrets.compare_digest(key.check.hex(), store_format.key_check):
        raise KeyMissingError(f"the key that was given is not the key of {store.url}")
    return SealedStore(store, key)
