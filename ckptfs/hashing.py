"""The content hash of ckptfs: BLAKE3-256 (docs/FORMAT.md, conventions). The one importer of blake3."""

from blake3 import blake3

HASH_BYTES = 32


def hash_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """Return the 32-byte BLAKE3-256 of some bytes. Other threads run meanwhile: Python's lock is released."""
    return blake3(data).digest()


class Hasher:
    """The same hash over bytes that come in pieces."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Append some bytes."""
        self._state.update(data)

    def digest(self) -> bytes:
        """Return the 32-byte hash of all bytes so far; more may follow."""
        return self._state.digest()
