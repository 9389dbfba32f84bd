"""A store whose objects are encrypted: everything but format.json is sealed on its way in and opened on its way out.

What is above knows nothing of it, so that nothing can be forgotten there: whatever a layer puts, the store behind gets
nothing but sealed bytes, random names and sizes. Layout: docs/FORMAT.md section 9.
"""

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ckptfs.crypto.sealing import SALT_BYTES, BlockRange, ObjectCipher, StoreKey, blocks_of, plain_bytes, sealed_bytes
from ckptfs.errors import CorruptObjectError
from ckptfs.format.keys import DAMAGE_PREFIX, FORMAT_KEY, is_pack_key, split_damage_key, split_pack_key
from ckptfs.hashing import HASH_BYTES
from ckptfs.store.base import MAX_GET_BYTES, ObjectInfo, Store

MAGIC = b"ckptfsE1"
HEADER_BYTES = len(MAGIC) + SALT_BYTES
# 20 us to make one, and a read of a version asks for few packs often
_KEPT_CIPHERS = 256
_MARK_HASH_END = len(DAMAGE_PREFIX) + 2 * HASH_BYTES
_HIDDEN = re.compile(r"d/([0-9a-f]{96})(-.*)")
_WHOLE = BlockRange(0, 0, 0, 0)


class SealedStore:
    """Wraps a store; see store/base.py for the methods.

    Args:
        store: Where the sealed objects are.
        key: Of the store.
    """

    def __init__(self, store: Store, key: StoreKey) -> None:
        self._store = store
        self._key = key
        self._names = key.names
        self._pack_cipher = lru_cache(_KEPT_CIPHERS)(lambda name: key.cipher(name, split_pack_key(name)[1]))

    @property
    def url(self) -> str:
        """The wrapped store's."""
        return self._store.url

    def get(self, key: str, *, most_bytes: int = MAX_GET_BYTES) -> bytes:
        """Return a whole object. Raises NotFoundError, CorruptObjectError."""
        if key == FORMAT_KEY:
            return self._store.get(key, most_bytes=most_bytes)
        body = self._store.get(self._name_of(key), most_bytes=HEADER_BYTES + sealed_bytes(most_bytes))
        if is_pack_key(key):
            return self._open(key, self._pack_cipher(key), memoryview(body))
        if not body.startswith(MAGIC) or len(body) < HEADER_BYTES:
            raise CorruptObjectError(f"{key} is not encrypted, and lies in a store that is")
        return self._open(key, self._key.cipher(key, body[len(MAGIC) : HEADER_BYTES]), memoryview(body)[HEADER_BYTES:])

    def get_range(self, key: str, offset_bytes: int, size_bytes: int, *, may_end: bool = False) -> bytes:
        """Return a range of an object. Raises NotFoundError, CorruptObjectError."""
        if key == FORMAT_KEY:
            return self._store.get_range(key, offset_bytes, size_bytes, may_end=may_end)
        if is_pack_key(key):
            blocks = blocks_of(offset_bytes, size_bytes)
            sealed = self._store.get_range(key, blocks.start_bytes, blocks.end_bytes - blocks.start_bytes, may_end=True)
            there = min(size_bytes, plain_bytes(len(sealed)) - blocks.skip_bytes)
            body = self._open(key, self._pack_cipher(key), memoryview(sealed), blocks, there) if there > 0 else b""
        else:
            # small ones, which nobody reads in parts
            body = self.get(key)[offset_bytes : offset_bytes + size_bytes]
        if not body or (len(body) < size_bytes and not may_end):
            raise CorruptObjectError(f"{key} ends before byte {offset_bytes + size_bytes}")
        return body

    def _open(
        self,
        key: str,
        cipher: ObjectCipher,
        sealed: memoryview,
        blocks: BlockRange = _WHOLE,
        size_bytes: int | None = None,
    ) -> bytes:
        """Return a range of an object from its blocks; without a size, all of it."""
        size = plain_bytes(len(sealed)) if size_bytes is None else size_bytes
        try:
            return cipher.open(sealed, first_block=blocks.first_block, offset_bytes=blocks.skip_bytes, size_bytes=size)
        except CorruptObjectError as error:
            raise CorruptObjectError(
                f"{key} does not open: it is damaged, or was not sealed under this name with this key"
            ) from error

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing one of that key."""
        self._store.put(self._name_of(key), self._seal(key, body))

    def create(self, key: str, body: bytes) -> None:
        """Write an object that must not exist. Raises AlreadyExistsError."""
        self._store.create(self._name_of(key), self._seal(key, body))

    def _seal(self, key: str, body: bytes) -> bytes:
        if key == FORMAT_KEY:
            return body
        if is_pack_key(key):
            # written once, and again only with the same bytes: its random id serves as the salt, so that a range of it
            # can be opened without having read its beginning
            return self._pack_cipher(key).seal(body)
        salt = os.urandom(SALT_BYTES)
        return self._key.cipher(key, salt).seal(body, MAGIC + salt)

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix` and is greater than `after`, in key order."""
        if prefix.startswith(DAMAGE_PREFIX) or DAMAGE_PREFIX.startswith(prefix):
            # the names behind have another order; there are few marks, and nobody lists more with them
            rows = (self._shown(info) for info in self._store.list(prefix[: len(DAMAGE_PREFIX)]))
            found = sorted(row for row in rows if row is not None and row.key.startswith(prefix) and row.key > after)
            yield from found[:limit]
            return
        for info in self._store.list(prefix, after=after, limit=limit):
            row = self._shown(info)
            if row is not None:
                yield row

    def _name_of(self, key: str) -> str:
        """Return the name behind of a key: its own, unless it has a chunk's hash in it."""
        if split_damage_key(key) is None:
            return key
        digest, rest = key[len(DAMAGE_PREFIX) : _MARK_HASH_END], key[_MARK_HASH_END:]
        return DAMAGE_PREFIX + self._names.hide(bytes.fromhex(digest), rest.encode()).hex() + rest

    def _shown(self, info: ObjectInfo) -> ObjectInfo | None:
        """Return a row as it is above; None of what is a mark behind, but none of ours."""
        key = info.key
        if key == FORMAT_KEY:
            return info
        if split_damage_key(key) is not None:
            return None
        if match := _HIDDEN.fullmatch(key):
            digest = self._names.show(bytes.fromhex(match[1]), match[2].encode())
            if digest is None:
                return None
            key = DAMAGE_PREFIX + digest.hex() + match[2]
        return ObjectInfo(key, max(0, plain_bytes(info.size_bytes - (0 if is_pack_key(key) else HEADER_BYTES))))

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        self._store.delete(self._name_of(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete any number of objects."""
        self._store.delete_many([self._name_of(key) for key in keys])

    def close(self) -> None:
        """As the wrapped store."""
        self._store.close()
