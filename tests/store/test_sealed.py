"""A sealed store: what lies behind it tells nothing, and what was changed there is refused."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfs.crypto.sealing import BLOCK_BYTES, StoreKey
from ckptfs.crypto.secret import Secret
from ckptfs.errors import CorruptObjectError, NotFoundError
from ckptfs.format.keys import damage_key
from ckptfs.store.base import Store
from ckptfs.store.open import open_store
from ckptfs.store.sealed import SealedStore
from ckptfs.transfer.damage import DamageList
from tests.versions.memory_store import MemoryStore

PACK = "p/0000000001-0123456789abcdef0123456789abcdef"
COMMIT = "c/09223372036854775806"
KEY = StoreKey(Secret(b"a secret"), bytes(16))
BODY = os.urandom(3 * BLOCK_BYTES + 123)


def sealed_pack(body: bytes = BODY) -> tuple[MemoryStore, SealedStore]:
    behind = MemoryStore()
    store = SealedStore(behind, KEY)
    store.put(PACK, body)
    return behind, store


@pytest.fixture(params=["file", pytest.param("seaweedfs", marks=pytest.mark.s3)])
def backend(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


def test_any_range_of_a_pack_is_one_request_to_any_backend(backend: Store) -> None:
    store = SealedStore(backend, KEY)
    store.put(PACK, BODY)
    for offset, size in ((0, 1), (0, len(BODY)), (BLOCK_BYTES - 1, 2), (len(BODY) - 1, 1), (70_000, 100_000)):
        assert store.get_range(PACK, offset, size) == BODY[offset : offset + size]
    assert store.get_range(PACK, len(BODY) - 5, 100, may_end=True) == BODY[-5:]
    for offset, size in ((len(BODY) - 5, 6), (len(BODY), 1), (1 << 40, 1)):
        with pytest.raises(CorruptObjectError):
            store.get_range(PACK, offset, size)
    assert [(row.key, row.size_bytes) for row in store.list("")] == [(PACK, len(BODY))]


@given(st.integers(0, len(BODY) + 10), st.integers(1, len(BODY)))
@settings(max_examples=100, deadline=None)
def test_a_range_is_what_the_plain_store_would_have_given(offset: int, size: int) -> None:
    behind, store = sealed_pack()
    before = len(behind.requests)
    plain = BODY[offset : offset + size]
    try:
        assert store.get_range(PACK, offset, size) == plain
        assert len(plain) == size
    except CorruptObjectError:
        assert len(plain) < size
    assert len(behind.requests) - before == 1


@pytest.mark.parametrize("cut_bytes", [1, 100, BLOCK_BYTES, 2 * (BLOCK_BYTES + 16)])
def test_a_pack_that_ends_too_early_is_noticed_where_it_ends(cut_bytes: int) -> None:
    behind, store = sealed_pack()
    behind.objects[PACK] = behind.objects[PACK][:-cut_bytes]
    with pytest.raises(CorruptObjectError):
        store.get_range(PACK, len(BODY) - 10, 10)
    assert store.get_range(PACK, 0, 10) == BODY[:10]


def test_damage_of_one_block_leaves_the_others_readable() -> None:
    behind, store = sealed_pack()
    body = bytearray(behind.objects[PACK])
    body[BLOCK_BYTES + 16 + 5] ^= 1
    behind.objects[PACK] = bytes(body)
    with pytest.raises(CorruptObjectError, match="does not open"):
        store.get_range(PACK, BLOCK_BYTES, 1)
    assert store.get_range(PACK, 2 * BLOCK_BYTES, 100) == BODY[2 * BLOCK_BYTES :][:100]
    assert store.get_range(PACK, 0, BLOCK_BYTES) == BODY[:BLOCK_BYTES]


def test_an_object_under_another_name_does_not_open() -> None:
    behind = MemoryStore()
    store = SealedStore(behind, KEY)
    store.put("lease", b"now")
    store.create(COMMIT, b"a record")
    store.put(PACK, BODY)
    behind.objects["lease"] = behind.objects[COMMIT]
    other = PACK[:-1] + "0"
    behind.objects[other] = behind.objects[PACK]
    for name in ("lease", other):
        with pytest.raises(CorruptObjectError, match=f"{name} does not open"):
            store.get(name)


@pytest.mark.parametrize("planted", [b"", b"ckptfsE1", b"a plain record", b"ckptfsE1" + bytes(16)])
def test_what_somebody_planted_does_not_open(planted: bytes) -> None:
    behind = MemoryStore()
    behind.objects[COMMIT] = behind.objects[PACK] = planted
    store = SealedStore(behind, KEY)
    for name in (COMMIT, PACK):
        with pytest.raises(CorruptObjectError):
            store.get(name)
    assert [row.size_bytes for row in store.list("")] >= [0, 0]


def test_the_same_bytes_look_different_each_time_but_in_a_pack() -> None:
    behind, store = sealed_pack()
    first = behind.objects[PACK]
    store.put(PACK, BODY)  # as after a lost reply
    assert behind.objects[PACK] == first
    seen = set()
    for _ in range(3):
        store.put("lease", b"the same")
        seen.add(behind.objects["lease"])
    assert len(seen) == 3


def test_format_json_alone_is_plain() -> None:
    behind = MemoryStore()
    store = SealedStore(behind, KEY)
    store.create("format.json", b"{}")
    assert behind.objects["format.json"] == store.get("format.json") == store.get_range("format.json", 0, 2) == b"{}"


def test_the_name_of_a_mark_shows_no_hash_and_is_the_same_each_time() -> None:
    behind = MemoryStore()
    store = SealedStore(behind, KEY)
    marks = [damage_key(bytes([number]) * 32, PACK) for number in range(20)]
    for mark in [*marks, marks[3]]:
        store.put(mark, b"")
    assert len(behind.objects) == 20
    assert not any(mark[2:66] in name for mark in marks for name in behind.objects)
    behind.objects["d/" + "0" * 96 + marks[0][66:]] = b""
    behind.objects[marks[0]] = b"planted"
    for prefix in ("d/", "", "d"):
        assert [row.key for row in store.list(prefix)] == marks
    assert [row.key for row in store.list("d/", after=marks[4], limit=2)] == marks[5:7]
    assert store.get(marks[7]) == b""
    store.delete_many(marks[1:])
    store.delete(marks[0])
    assert list(store.list("d/")) == []


def test_marks_of_chunks_and_of_manifest_parts_are_read_back_alike_and_taken_away() -> None:
    damage = DamageList(SealedStore(MemoryStore(), KEY))
    marks = {(b"h" * 32, PACK), (b"", "m/" + "0123456789abcdef" * 2), (b"", COMMIT)}
    damage.add(marks)
    assert damage.read() == marks
    damage.clear(but={(b"", COMMIT)})
    assert damage.read() == {(b"", COMMIT)}


def test_what_is_missing_is_missing() -> None:
    store = SealedStore(MemoryStore(), KEY)
    for name in (PACK, COMMIT):
        with pytest.raises(NotFoundError):
            store.get(name)
        with pytest.raises(NotFoundError):
            store.get_range(name, 0, 1)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=0, max_size=200_000))
def test_files_behind_it_hold_no_piece_of_what_was_put(tmp_path: Path, noise: bytes) -> None:
    text = b"these words are plain " + noise
    behind = open_store((tmp_path / "store").as_uri(), create=True)
    store = SealedStore(behind, KEY)
    for name in (PACK, COMMIT, "lease", "m/" + "0" * 32):
        store.put(name, text)
        assert store.get(name) == text
        assert b"these words are plain" not in behind.get(name)
