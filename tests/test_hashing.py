"""The content hash is BLAKE3-256, whatever the buffer and however it comes."""

import pytest

from ckptfs.hashing import HASH_BYTES, Hasher, hash_bytes

# from the test vectors that are published with BLAKE3
EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_the_hash_of_nothing_is_the_published_one() -> None:
    assert hash_bytes(b"").hex() == EMPTY
    assert len(hash_bytes(b"")) == HASH_BYTES


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_has_the_hash_of_its_bytes(kind: type) -> None:
    data = bytes(range(256)) * 100
    assert hash_bytes(kind(data)) == hash_bytes(data)


def test_pieces_hash_like_the_whole() -> None:
    data = bytes(range(256)) * 100
    hasher = Hasher()
    for start in range(0, len(data), 999):
        hasher.update(memoryview(data)[start : start + 999])
    assert hasher.digest() == hash_bytes(data)
    hasher.update(b"more")
    assert hasher.digest() == hash_bytes(data + b"more")
