"""Making a store, telling one from anything else, and probing that create-only is kept."""

import json

import pytest

from ckptfs.errors import InvalidInputError, StoreUnavailableError, UnsafeStoreError, UnsupportedFormatError
from ckptfs.format.keys import FORMAT_KEY
from ckptfs.versions.create import ensure_format, ensure_safe, probe_create_only, read_format
from ckptfs.versions.history import open_history
from ckptfs.versions.writer import Writer
from tests.versions.memory_store import Fault, MemoryStore, fail_next
from tests.versions.scene import FakeClock, acquire, holder, save


def test_an_empty_place_is_no_store_for_a_reader() -> None:
    with pytest.raises(InvalidInputError, match="memory://store is not a ckptfs store"):
        open_history(MemoryStore())


def test_the_first_writer_makes_the_store_and_later_ones_keep_its_id() -> None:
    store = MemoryStore()
    made = ensure_format(store, FakeClock().retry())
    assert ensure_format(store, FakeClock().retry()) == made
    assert read_format(store).store_id == made.store_id == open_history(store).store_id


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.REPLY_LOST, Fault.REPLY_LOST_AND_RETRIED, Fault.LATE])
def test_the_store_is_made_once_although_replies_are_lost(fault: Fault) -> None:
    store = MemoryStore()
    store.faults = fail_next("create", FORMAT_KEY, fault)
    made = ensure_format(store, FakeClock().retry())
    while store.late:
        store.deliver()
    assert read_format(store) == made


@pytest.mark.parametrize("key", ["c/00000000000000000001", "m/x", "p/y", "lease"])
def test_a_place_that_holds_objects_of_a_store_but_no_format_is_not_made_a_store(key: str) -> None:
    store = MemoryStore()
    store.objects[key] = b"?"
    with pytest.raises(InvalidInputError, match=key):
        acquire(store)
    assert set(store.objects) == {key}


def test_a_place_with_other_peoples_objects_can_become_a_store() -> None:
    store = MemoryStore()
    store.objects |= {"README": b"", "leases/1": b"", "data/p/1": b""}
    assert acquire(store).epoch == 1


def test_a_store_made_while_we_looked_is_no_damaged_one() -> None:
    store = MemoryStore()

    def another_makes_it(operation: str, key: str) -> None:
        if operation == "list" and FORMAT_KEY not in store.objects:
            store.before_request = lambda operation, key: None
            save(acquire(store, "quick"))

    store.before_request = another_makes_it
    store_id = ensure_format(store, FakeClock().retry()).store_id
    assert read_format(store).store_id == store_id


@pytest.mark.parametrize("change", [{"version": 2}, {"features": ["erasure-coding"]}])
def test_a_store_of_a_newer_format_is_refused_for_reading_and_writing(change: dict[str, object]) -> None:
    store = MemoryStore()
    acquire(store)
    store.objects[FORMAT_KEY] = json.dumps(json.loads(store.objects[FORMAT_KEY]) | change).encode()
    with pytest.raises(UnsupportedFormatError):
        open_history(store)
    with pytest.raises(UnsupportedFormatError):
        acquire(store)


def test_a_store_that_overwrites_is_refused_for_writing_before_anything_is_committed() -> None:
    store = MemoryStore(honours_create=False)
    with pytest.raises(UnsafeStoreError, match="memory://store"):
        acquire(store)
    assert set(store.objects) == {FORMAT_KEY}


def test_the_probe_of_a_store_that_overwrites_changes_nothing_in_it() -> None:
    store = MemoryStore()
    acquire(store)
    before = dict(store.objects)
    store.honours_create = False
    with pytest.raises(UnsafeStoreError):
        probe_create_only(store, FakeClock().retry())
    assert store.objects == before


def test_the_user_can_vouch_for_a_single_writer() -> None:
    store = MemoryStore(honours_create=False)
    writer = Writer.acquire(store, holder(), unsafe_single_writer=True)
    assert save(writer).version == 1


def test_a_probe_without_an_answer_is_no_proof() -> None:
    store = MemoryStore()
    acquire(store)
    store.faults = lambda operation, key: Fault.BEFORE if operation == "create" else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        ensure_safe(store, FakeClock().retry(), unsafe_single_writer=False)
