"""The cryptography that docs/FORMAT.md section 9 names, by its parameters. The one importer of `cryptography`."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ckptfs.errors import CorruptObjectError

KEY_BYTES = 32
TAG_BYTES = 16

# 32 MiB and 60 to 80 ms of one core for each guess at a weak secret, once for each opening of a store
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}


def stretch(secret: bytes, salt: bytes) -> bytes:
    """Return the 32-byte key of a secret, at a cost that makes guessing slow."""
    return Scrypt(salt=salt, length=KEY_BYTES, **_SCRYPT).derive(secret)


def derive(key: bytes, *, salt: bytes, purpose: bytes, size_bytes: int = KEY_BYTES) -> bytes:
    """Return a key for one purpose, from which neither `key` nor any other can be found."""
    return HKDF(algorithm=SHA256(), length=size_bytes, salt=salt, info=purpose).derive(key)


class Aead:
    """AES-256-GCM under one key: 20 times as fast as ChaCha20-Poly1305 where the processor has instructions for it.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, nonce: bytes, plain: memoryview, name: bytes, out: memoryview) -> None:
        """Write what `plain` becomes to `out`, TAG_BYTES longer. A nonce is used once under a key."""
        self._cipher.encrypt_into(nonce, plain, name, out)

    def open(self, nonce: bytes, sealed: memoryview, name: bytes, out: memoryview) -> None:
        """Write what was sealed to `out`, TAG_BYTES shorter.

        Raises:
            CorruptObjectError: It is not what was sealed with this key, nonce and name; `out` is undefined.
        """
        try:
            self._cipher.decrypt_into(nonce, sealed, name, out)
        except (InvalidTag, ValueError) as error:
            raise CorruptObjectError("the bytes are not those that were sealed") from error


class NameCipher:
    """AES-SIV: the same bytes become the same bytes each time, so that they can be part of a name.

    Args:
        key: 64 bytes.
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)

    def hide(self, data: bytes, beside: bytes) -> bytes:
        """Return what some bytes become, TAG_BYTES longer, beside others that can be read."""
        return self._cipher.encrypt(data, [beside])

    def show(self, hidden: bytes, beside: bytes) -> bytes | None:
        """Return the bytes that were hidden beside others; None if they were not."""
        try:
            return self._cipher.decrypt(hidden, [beside])
        except (InvalidTag, ValueError):
            return None
