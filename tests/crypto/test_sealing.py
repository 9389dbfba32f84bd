"""What is sealed opens as it was, under its own name and key, at its own place; whatever else is refused."""

import os
import pickle
import traceback
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.crypto.sealing import BLOCK_BYTES, ObjectCipher, StoreKey, blocks_of, plain_bytes, sealed_bytes
from ckptfs.crypto.secret import MAX_SECRET_BYTES, Secret
from ckptfs.errors import CorruptObjectError, InvalidInputError

KEY = StoreKey(Secret(b"a secret"), bytes(16))
NAME = "p/0000000003-000102030405060708090a0b0c0d0e0f"
SEALED_BLOCK = BLOCK_BYTES + 16
SIZES = [0, 1, 15, 16, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 5 * BLOCK_BYTES + 7]


def cipher(name: str = NAME, salt: bytes = bytes(16), key: StoreKey = KEY) -> ObjectCipher:
    return key.cipher(name, salt)


def open_all(sealed: bytes, by: ObjectCipher) -> bytes:
    return by.open(memoryview(sealed), first_block=0, offset_bytes=0, size_bytes=plain_bytes(len(sealed)))


@pytest.mark.parametrize("size_bytes", SIZES)
def test_an_object_opens_as_it_was_sealed_and_its_sizes_are_known(size_bytes: int) -> None:
    plain = os.urandom(size_bytes)
    sealed = cipher().seal(plain)
    assert open_all(sealed, cipher()) == plain
    assert len(sealed) == sealed_bytes(size_bytes)
    assert plain_bytes(len(sealed)) == size_bytes


PLAIN = os.urandom(4 * BLOCK_BYTES + 1000)
SEALED = cipher().seal(PLAIN)


@given(st.integers(0, len(PLAIN) - 1), st.integers(1, len(PLAIN)))
@settings(max_examples=200, deadline=None)
def test_any_range_opens_from_the_blocks_that_hold_it(offset_bytes: int, size_bytes: int) -> None:
    size_bytes = min(size_bytes, len(PLAIN) - offset_bytes)
    blocks = blocks_of(offset_bytes, size_bytes)
    some = memoryview(SEALED)[blocks.start_bytes : blocks.end_bytes]
    opened = cipher().open(some, first_block=blocks.first_block, offset_bytes=blocks.skip_bytes, size_bytes=size_bytes)
    assert opened == PLAIN[offset_bytes : offset_bytes + size_bytes]


@given(st.integers(0, len(SEALED) * 8 - 1))
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    damaged = bytearray(SEALED)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptObjectError):
        open_all(bytes(damaged), cipher())


@dataclass(frozen=True)
class Forgery:
    name: str
    sealed: bytes
    by: ObjectCipher


@pytest.mark.parametrize(
    "forgery",
    [
        Forgery("another object's name", SEALED, cipher(NAME[:-1] + "e")),
        Forgery("another salt", SEALED, cipher(salt=bytes(15) + b"\1")),
        Forgery("another secret", SEALED, cipher(key=StoreKey(Secret(b"another"), bytes(16)))),
        Forgery("another store", SEALED, cipher(key=StoreKey(Secret(b"a secret"), bytes(15) + b"\1"))),
        Forgery(
            "two blocks that changed places",
            SEALED[SEALED_BLOCK : 2 * SEALED_BLOCK] + SEALED[:SEALED_BLOCK] + SEALED[2 * SEALED_BLOCK :],
            cipher(),
        ),
        Forgery("a block left out", SEALED[SEALED_BLOCK:], cipher()),
        Forgery("cut within a block", SEALED[:-1], cipher()),
        Forgery("cut within a tag", SEALED[: SEALED_BLOCK + 9], cipher()),
        Forgery("less than a tag", SEALED[:9], cipher()),
        Forgery("nothing", b"", cipher()),
        Forgery("plain", PLAIN, cipher()),
    ],
    ids=lambda forgery: forgery.name,
)
def test_what_was_not_sealed_here_does_not_open(forgery: Forgery) -> None:
    with pytest.raises(CorruptObjectError):
        open_all(forgery.sealed, forgery.by)


def test_a_range_that_is_longer_than_its_blocks_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(CorruptObjectError, match="hold no"):
        cipher().open(memoryview(SEALED), first_block=0, offset_bytes=0, size_bytes=1 << 60)


def test_two_objects_of_the_same_bytes_have_nothing_in_common() -> None:
    plain = bytes(BLOCK_BYTES * 2)
    first, second = cipher().seal(plain), cipher(salt=os.urandom(16)).seal(plain)
    pieces = [sealed[start : start + 16] for sealed in (first, second) for start in range(0, len(sealed), 16)]
    assert len(set(pieces)) == len(pieces)


def test_a_secret_is_shown_by_nothing() -> None:
    secret = Secret(b"geheim\n")
    assert secret.reveal() == b"geheim"
    for text in (repr(secret), str(secret), f"{[secret]}", f"{StoreKey(secret, bytes(16))!r}"):
        assert "geheim" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_an_empty_or_a_gigantic_secret_is_refused_without_being_shown() -> None:
    for data in (b"", b"\r\n\n", b"geheim" * MAX_SECRET_BYTES):
        with pytest.raises(InvalidInputError) as caught:
            Secret(data)
        assert "geheim" not in "".join(traceback.format_exception(caught.value))
