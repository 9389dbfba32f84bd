"""Sealing one object: its bytes, cut into blocks, each encrypted and authenticated with its place.

Pure but for random salts. Layout: docs/FORMAT.md section 9; change both in one commit.

Rules:
    E1  an object's key is used for one object: it comes from the object's name and from 16 bytes that no other object,
        and no other state of this one, has
    E2  a block's number is its nonce, so that no nonce is used twice under a key, and no block serves at another place
    E3  nothing is handed out that has not been authenticated
"""

import io
import struct
from typing import NamedTuple

from ckptfs.crypto.primitives import KEY_BYTES, TAG_BYTES, Aead, NameCipher, derive, stretch
from ckptfs.crypto.secret import Secret
from ckptfs.errors import CorruptObjectError

BLOCK_BYTES = 64 << 10
"""Plain. Tags take 0.024 %, and a read at any place brings 64 KiB too much on average, 0.6 ms at 100 MB/s."""
SALT_BYTES = 16
CHECK_BYTES = 16

_SEALED_BLOCK_BYTES = BLOCK_BYTES + TAG_BYTES
_NONCE = struct.Struct("<Q4x")
"""Number of the block, and zeros up to the 12 bytes that AES-GCM takes."""
_ONLY_ZEROS = bytes(SALT_BYTES)


class StoreKey:
    """The key of one store, from which those of its objects come.

    Args:
        secret: The user's.
        store_id: 16 bytes, of the store: so one secret makes other keys for each store.
    """

    __slots__ = ("_key",)

    def __init__(self, secret: Secret, store_id: bytes) -> None:
        self._key = stretch(secret.reveal(), store_id)

    @property
    def check(self) -> bytes:
        """What is kept in format.json to tell a wrong secret at once; of no use to find the right one faster."""
        return derive(self._key, salt=_ONLY_ZEROS, purpose=b"ckptfs check", size_bytes=CHECK_BYTES)

    @property
    def names(self) -> NameCipher:
        """The cipher of what is part of a name, and must not be read."""
        return NameCipher(derive(self._key, salt=_ONLY_ZEROS, purpose=b"ckptfs names", size_bytes=2 * KEY_BYTES))

    def cipher(self, name: str, salt: bytes) -> "ObjectCipher":
        """Return the cipher of one state of one object (E1)."""
        return ObjectCipher(Aead(derive(self._key, salt=salt, purpose=b"ckptfs object " + name.encode())), name)


class ObjectCipher:
    """Seals and opens the bytes of one object. Safe for use by several threads."""

    __slots__ = ("_aead", "_name")

    def __init__(self, aead: Aead, name: str) -> None:
        self._aead = aead
        self._name = name.encode()

    def seal(self, plain: bytes, header: bytes = b"") -> bytes:
        """Return a whole object, sealed, after a header that is left as it is."""
        file = _room(len(header) + sealed_bytes(len(plain)))
        file.write(header)
        with file.getbuffer() as out, memoryview(plain) as view:
            place = len(header)
            for number, start in enumerate(range(0, len(plain) or 1, BLOCK_BYTES)):
                block = view[start : start + BLOCK_BYTES]
                end = place + len(block) + TAG_BYTES
                self._aead.seal(_NONCE.pack(number), block, self._name, out[place:end])
                place = end
        return file.getvalue()

    def open(self, sealed: memoryview, *, first_block: int, offset_bytes: int, size_bytes: int) -> bytes:
        """Return a range of an object's plain bytes.

        Args:
            sealed: The blocks that hold the range, whole.
            first_block: The number of the first of them.
            offset_bytes: Where the range begins, in that block.
            size_bytes: Of the range.

        Raises:
            CorruptObjectError: They are not blocks of this object at these places, or too few.
        """
        if not 0 <= size_bytes <= plain_bytes(len(sealed)) - offset_bytes:
            raise CorruptObjectError(f"{len(sealed)} sealed bytes hold no {size_bytes} from {offset_bytes} on")
        file = _room(size_bytes)
        with file.getbuffer() as out:
            for index, start in enumerate(range(0, len(sealed), _SEALED_BLOCK_BYTES)):
                block = sealed[start : start + _SEALED_BLOCK_BYTES]
                self._open_block(block, first_block + index, out, index * BLOCK_BYTES - offset_bytes)
        return file.getvalue()

    def _open_block(self, sealed: memoryview, number: int, out: memoryview, place: int) -> None:
        """Write what a block and the range have in common.

        Args:
            place: Where the block begins in the range; negative if it begins before.
        """
        size = len(sealed) - TAG_BYTES
        if size < 0:
            raise CorruptObjectError(f"a block of {len(sealed)} bytes")
        if place >= 0 and place + size <= len(out):
            self._aead.open(_NONCE.pack(number), sealed, self._name, out[place : place + size])
            return
        plain = memoryview(bytearray(size))
        self._aead.open(_NONCE.pack(number), sealed, self._name, plain)
        wanted = plain[max(0, -place) : len(out) - place]
        start = max(0, place)
        out[start : start + len(wanted)] = wanted


def _room(size_bytes: int) -> io.BytesIO:
    """Return a file in memory of a size, at its beginning. It gives its bytes away uncopied; a bytearray would not."""
    file = io.BytesIO()
    if size_bytes:
        file.seek(size_bytes - 1)
        file.write(b"\0")
        file.seek(0)
    return file


def sealed_bytes(size_bytes: int) -> int:
    """Return how many bytes some plain bytes take, sealed; an empty object is one empty block."""
    return size_bytes + TAG_BYTES * max(1, -(-size_bytes // BLOCK_BYTES))


def plain_bytes(size_bytes: int) -> int:
    """Return how many plain bytes some sealed ones hold; negative where there can be no such object."""
    return size_bytes - TAG_BYTES * max(1, -(-size_bytes // _SEALED_BLOCK_BYTES))


class BlockRange(NamedTuple):
    """The blocks that hold a range of an object's plain bytes."""

    first_block: int
    start_bytes: int
    """Sealed, where the first block begins."""
    end_bytes: int
    """Where the last one ends, if it is a full one."""
    skip_bytes: int
    """Plain, from the beginning of the first block to that of the range."""


def blocks_of(offset_bytes: int, size_bytes: int) -> BlockRange:
    """Return the blocks of a range of 1 byte or more."""
    first, skip = divmod(offset_bytes, BLOCK_BYTES)
    last = (offset_bytes + size_bytes - 1) // BLOCK_BYTES
    return BlockRange(first, first * _SEALED_BLOCK_BYTES, (last + 1) * _SEALED_BLOCK_BYTES, skip)
