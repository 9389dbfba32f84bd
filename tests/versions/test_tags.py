"""Tags: who may set them, what they may be called, and that they get into nobody's way."""

import threading

import pytest

from ckptfs.errors import InvalidInputError, NoSuchVersionError, UnsafeStoreError
from ckptfs.format.commit import CommitKind
from ckptfs.format.keys import commit_key
from ckptfs.versions.tags import delete_tag, set_tag
from tests.versions.memory_store import Fault, MemoryStore, fail_next
from tests.versions.scene import acquire, all_records, collect, fresh, save


def store_with(versions: int) -> MemoryStore:
    store = MemoryStore()
    save(acquire(store), versions)
    return store


def test_a_tag_names_a_version_moves_and_goes() -> None:
    store = store_with(3)
    assert set_tag(store, "best", 2) == 2
    assert set_tag(store, "first", "1") == 1
    assert set_tag(store, "best", "latest") == 3
    assert set_tag(store, "copy", "first") == 1
    assert fresh(store).tags() == {"best": 3, "first": 1, "copy": 1}
    assert delete_tag(store, "first") == 1
    assert fresh(store).tags() == {"best": 3, "copy": 1}


def test_a_tag_that_is_so_already_makes_no_record() -> None:
    store = store_with(1)
    set_tag(store, "best", 1)
    before = dict(store.objects)
    assert set_tag(store, "best", 1) == 1
    assert store.objects == before


@pytest.mark.parametrize("name", ["", "latest", "12", "-x", ".x", "a/b", "a b", "x" * 101, "\u00e4", "a\n"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    store = store_with(1)
    before = dict(store.objects)
    with pytest.raises(InvalidInputError):
        set_tag(store, name, 1)
    assert store.objects == before


def test_only_what_exists_can_be_tagged_or_untagged() -> None:
    store = store_with(2)
    collect(store, dropped=[(1, 1)])
    for spec in (1, 3, "nothing"):
        with pytest.raises(NoSuchVersionError):
            set_tag(store, "best", spec)
    with pytest.raises(NoSuchVersionError):
        delete_tag(store, "best")
    nothing_yet = MemoryStore()
    acquire(nothing_yet)
    with pytest.raises(NoSuchVersionError):
        set_tag(nothing_yet, "best", "latest")


def test_tagging_fences_nobody() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer)
    set_tag(store, "best", 1)
    assert save(writer).epoch == 1
    assert [record.kind for record in all_records(store)] == ["fence", "save", "tag", "save"]


def test_a_version_pruned_while_it_is_being_tagged_is_not_tagged() -> None:
    store = store_with(2)

    def pruned_first(operation: str, key: str) -> None:
        if operation == "create" and key == commit_key(4):
            store.before_request = lambda operation, key: None
            collect(store, dropped=[(1, 1)])

    store.before_request = pruned_first
    with pytest.raises(NoSuchVersionError, match="pruned"):
        set_tag(store, "best", 1)
    assert fresh(store).tags() == {}


def test_tags_set_by_many_at_once_are_all_kept_between_the_writers_versions() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer)
    threads = [threading.Thread(target=set_tag, args=(store, f"tag-{number}", 1)) for number in range(8)]
    for thread in threads:
        thread.start()
    save(writer, 20)
    for thread in threads:
        thread.join()
    assert fresh(store).tags() == {f"tag-{number}": 1 for number in range(8)}
    assert fresh(store).numbers() == list(range(1, 22))
    assert [record.kind for record in all_records(store)].count(CommitKind.TAG) == 8


@pytest.mark.parametrize("fault", [Fault.REPLY_LOST, Fault.REPLY_LOST_AND_RETRIED, Fault.TWICE])
def test_a_tag_whose_reply_is_lost_is_set_once(fault: Fault) -> None:
    store = store_with(1)
    store.faults = fail_next("create", "c/", fault)
    assert set_tag(store, "best", 1) == 1
    assert [record.kind for record in all_records(store)] == ["fence", "save", "tag"]


def test_on_a_store_that_overwrites_a_tag_is_refused_as_it_could_destroy_a_version() -> None:
    store = store_with(1)
    store.honours_create = False
    before = dict(store.objects)
    with pytest.raises(UnsafeStoreError):
        set_tag(store, "best", 1)
    assert store.objects == before
    assert set_tag(store, "best", 1, unsafe_single_writer=True) == 1
