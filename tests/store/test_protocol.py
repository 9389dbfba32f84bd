"""The rules of store/base.py, over every backend."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptfs.errors import AlreadyExistsError, CorruptObjectError, NotFoundError, StoreError
from ckptfs.store.base import Store
from ckptfs.store.open import open_store
from ckptfs.store.sealed import SealedStore
from tests.store.conftest import SEALED_BY

ODD_KEYS = [
    "a b",
    "a+b",
    "a%2Fb",
    "a&b=c?d#e",
    "a'b\"c",
    "a~b!c$d(e)*f,g;h:i@j",
    "a<b>c[d]e{f}g|h^i`j",
    "p/0000000001-0123456789abcdef0123456789abcdef",
    "c/09223372036854775806",
    "x" * 200,
]


def keys(store: Store, prefix: str = "", *, after: str = "", limit: int | None = None) -> list[str]:
    return [row.key for row in store.list(prefix, after=after, limit=limit)]


def fill(store: Store, names: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, key.encode()), names))


def test_an_object_is_read_back_as_it_was_written(store: Store) -> None:
    store.put("p/one", b"some bytes")
    assert store.get("p/one") == b"some bytes"


def test_a_put_replaces_the_object(store: Store) -> None:
    store.put("lease", b"the first, which is longer")
    store.put("lease", b"the second")
    assert store.get("lease") == b"the second"
    assert [(row.key, row.size_bytes) for row in store.list("")] == [("lease", 10)]


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.create("p/empty", b"")
    assert store.get("p/empty") == b""
    assert [(row.key, row.size_bytes) for row in store.list("")] == [("p/empty", 0)]


def test_an_object_of_40_mib_is_read_back_whole_and_in_ranges(store: Store) -> None:
    body = os.urandom(40 << 20)
    store.put("p/big", body)
    assert store.get("p/big") == body
    assert store.get_range("p/big", 12_345_678, 20 << 20) == body[12_345_678 : 12_345_678 + (20 << 20)]
    assert [row.size_bytes for row in store.list("p/")] == [40 << 20]


def test_any_printable_key_is_kept_as_it_is(store: Store) -> None:
    for key in ODD_KEYS:
        store.create(key, key.encode())
        assert store.get(key) == key.encode()
        assert keys(store, key) == [key]
    assert keys(store) == sorted(ODD_KEYS)
    store.delete_many(ODD_KEYS[1:])
    assert keys(store) == ODD_KEYS[:1]


def test_a_missing_object_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.get("p/none")
    with pytest.raises(NotFoundError):
        store.get_range("p/none", 0, 1)
    store.put("p/some", b"")
    with pytest.raises(NotFoundError):
        store.get("p/none")
    with pytest.raises(NotFoundError):
        store.get("p")


def test_create_makes_an_object_once(store: Store) -> None:
    store.create("c/1", b"first")
    with pytest.raises(AlreadyExistsError):
        store.create("c/1", b"second")
    with pytest.raises(AlreadyExistsError):
        store.create("c/1", b"first")
    assert store.get("c/1") == b"first"


def test_create_does_not_replace_what_put_wrote(store: Store) -> None:
    store.put("c/1", b"first")
    with pytest.raises(AlreadyExistsError):
        store.create("c/1", b"second")
    assert store.get("c/1") == b"first"


def test_a_deleted_object_is_gone_and_can_be_created_again(store: Store) -> None:
    store.create("c/1", b"first")
    store.delete("c/1")
    with pytest.raises(NotFoundError):
        store.get("c/1")
    assert keys(store) == []
    store.create("c/1", b"second")
    assert store.get("c/1") == b"second"


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.delete("p/none")
    store.delete_many([])
    store.put("p/some", b"")
    store.delete_many(["p/none", "p/some", "q/none"])
    assert keys(store) == []


def test_a_range_is_exactly_the_bytes_asked_for(store: Store) -> None:
    store.put("p/one", b"0123456789")
    for offset, size in [(0, 1), (0, 10), (3, 4), (9, 1)]:
        assert store.get_range("p/one", offset, size) == b"0123456789"[offset : offset + size]


def test_a_range_past_the_end_is_damage_and_no_short_answer(store: Store) -> None:
    store.put("p/one", b"0123456789")
    for offset, size in [(0, 11), (9, 2), (10, 1), (1 << 40, 1), (5, 1 << 40)]:
        with pytest.raises(CorruptObjectError, match="p/one"):
            store.get_range("p/one", offset, size)
    store.put("p/one", b"")
    with pytest.raises(CorruptObjectError):
        store.get_range("p/one", 0, 1)


def test_a_listing_is_in_key_order(store: Store) -> None:
    names = [f"c/{number:020d}" for number in (5, 1, 10, 9, 2)]
    fill(store, names)
    assert keys(store, "c/") == sorted(names)


def test_a_listing_has_the_keys_of_the_prefix_only(store: Store) -> None:
    fill(store, ["c/1", "c/2", "ca", "d/1", "format.json", "cb/1"])
    assert keys(store, "c/") == ["c/1", "c/2"]
    assert keys(store, "c/2") == ["c/2"]
    assert keys(store, "format") == ["format.json"]
    assert keys(store, "none/") == []
    assert sorted(keys(store)) == ["c/1", "c/2", "ca", "cb/1", "d/1", "format.json"]


@pytest.mark.parametrize("backend", ["file", "moto"])
def test_a_listing_is_in_the_order_of_whole_keys_not_of_directories(
    backend: str, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(f"{backend}_store")
    names = ["a-b/1", "a/1", "a/b-c", "a/b/1", "a0"]
    fill(store, names)
    assert keys(store) == names
    for number, name in enumerate(names):
        assert keys(store, after=name, limit=1) == names[number + 1 : number + 2]


@pytest.mark.s3
def test_a_server_that_lists_by_directories_is_refused_where_the_order_shows_it(seaweedfs_store: Store) -> None:
    fill(seaweedfs_store, ["a/b-c", "a/b/1"])
    with pytest.raises(StoreError, match="not listed in the order of its keys"):
        keys(seaweedfs_store)


def test_a_listing_starts_after_a_key_whether_it_exists_or_not(store: Store) -> None:
    fill(store, ["c/1", "c/2", "c/4", "d/1"])
    assert keys(store, "c/", after="c/1") == ["c/2", "c/4"]
    assert keys(store, "c/", after="c/3") == ["c/4"]
    assert keys(store, "c/", after="c/4") == []
    assert keys(store, "c/", after="a") == ["c/1", "c/2", "c/4"]
    assert keys(store, "c/", after="z") == []
    assert keys(store, "", after="c/2") == ["c/4", "d/1"]


def test_a_listing_stops_at_its_limit(store: Store) -> None:
    fill(store, ["c/1", "c/2", "c/3"])
    assert keys(store, "c/", limit=0) == []
    assert keys(store, "c/", limit=1) == ["c/1"]
    assert keys(store, "c/", limit=2, after="c/1") == ["c/2", "c/3"]
    assert keys(store, "c/", limit=7) == ["c/1", "c/2", "c/3"]


def test_listing_and_deleting_go_past_one_request_of_1000_keys(shared_store: Store) -> None:
    names = [f"p/{number:05d}" for number in range(1004)]
    fill(shared_store, names)
    assert keys(shared_store, "p/") == names
    assert keys(shared_store, "p/", limit=1002) == names[:1002]
    shared_store.delete_many(names[1:])
    assert keys(shared_store, "") == names[:1]


def test_a_store_opened_again_by_its_url_holds_the_same(store: Store) -> None:
    store.put("p/one", b"some bytes")
    again = open_store(store.url)
    assert again.url == store.url
    assert (SealedStore(again, SEALED_BY) if isinstance(store, SealedStore) else again).get("p/one") == b"some bytes"
    again.close()


def test_a_store_sees_nothing_of_its_neighbours(store: Store) -> None:
    neighbour = open_store(f"{store.url}-neighbour", create=True)
    neighbour.put("p/one", b"theirs")
    assert keys(store) == []
    assert keys(neighbour) == ["p/one"]
    neighbour.close()


def test_an_object_written_is_listed_at_once(shared_store: Store) -> None:
    for number in range(50):
        key = f"c/{9999 - number:05d}"
        shared_store.create(key, b"x")
        assert keys(shared_store, "c/", limit=1) == [key]


def test_a_store_serves_many_threads_at_once(shared_store: Store) -> None:
    bodies = {f"p/{number}": os.urandom(200_000) for number in range(48)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: shared_store.put(*item), bodies.items()))
        assert dict(zip(bodies, pool.map(shared_store.get, bodies), strict=True)) == bodies
