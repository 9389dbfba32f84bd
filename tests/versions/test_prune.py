"""Pruning: what goes, what stays, who loses which race, and what is left when it is interrupted."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from ckptfs.errors import CondemnedError, CorruptObjectError, FencedError, NoSuchVersionError, StoreUnavailableError
from ckptfs.format.commit import CommitKind
from ckptfs.format.keys import commit_key
from ckptfs.versions import parts
from ckptfs.versions.append import append
from ckptfs.versions.pins import pin
from ckptfs.versions.prune import Pruned, Pruner
from ckptfs.versions.retention import Retention
from ckptfs.versions.tags import delete_tag, set_tag
from tests.versions.memory_store import Fault, MemoryStore
from tests.versions.scene import (
    FakeClock,
    Series,
    acquire,
    all_records,
    fresh,
    needed_by,
    needed_by_all,
    objects_of,
)


def pruner(store: MemoryStore, *, epoch: int | None = None, budget_s: float = 30.0) -> Pruner:
    return Pruner(fresh(store), FakeClock().retry(budget_s), host="cleaner", pid=9, epoch=epoch)


def prune(store: MemoryStore, **rules: int) -> Pruned:
    return pruner(store).prune(Retention(**rules))


def series(store: MemoryStore, host: str = "gpu-07") -> Series:
    return Series(acquire(store, host, takeover=True))


def check_whole(store: MemoryStore) -> None:
    """Every version there is has all its objects."""
    assert needed_by_all(store) <= objects_of(store)


def test_a_dropped_version_is_gone_and_so_is_what_only_it_needed() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a", "b")
    only = made.files["a"].pack
    made.save("a")
    done = prune(store, keep_last=1)
    assert (done.dropped, done.kept, done.objects, done.orphans) == ([1], 1, 1, 0)
    assert only not in store.objects
    assert objects_of(store) == needed_by(store, 2)
    assert fresh(store).numbers() == [2]
    with pytest.raises(NoSuchVersionError, match="pruned"):
        fresh(store).version(1)
    assert [record.kind for record in all_records(store)] == ["fence", "save", "save", "gc"]


def test_what_other_versions_need_stays_until_the_last_of_them_goes() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(9):
        made.save("a")
        made.save("b")
    kept_all = objects_of(store)
    prune(store, keep_every=5)
    assert fresh(store).numbers() == [5, 10, 15, 18]
    assert objects_of(store) == needed_by_all(store) < kept_all
    prune(store, keep_last=1)
    assert objects_of(store) == needed_by(store, 18)


def test_a_base_stays_while_a_version_that_is_kept_is_encoded_against_it() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a")
    base = made.files["a"]
    made.save(based={"a": base})
    made.save("b")
    prune(store, keep_last=1)
    assert base.pack in store.objects
    made.save("a")
    prune(store, keep_last=1)
    assert base.pack not in store.objects


def test_segments_go_with_the_last_version_that_is_made_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_INLINE_BYTES", 0)
    store = MemoryStore()
    made = series(store)
    for _ in range(5):
        made.save("a")
    segments = {key for key in objects_of(store) if key.startswith("m/")}
    assert len(segments) == 5
    prune(store, keep_last=2)
    assert objects_of(store) == needed_by_all(store)
    assert len(objects_of(store) & segments) == 2


def test_the_newest_and_tagged_versions_are_kept_whatever_the_rules_say() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(6):
        made.save("a")
    set_tag(store, "best", 2)
    prune(store, keep_every=1000)
    assert fresh(store).numbers() == [2, 6]
    check_whole(store)
    delete_tag(store, "best")
    prune(store, keep_every=1000)
    assert fresh(store).numbers() == [6]


def test_what_a_restore_brought_back_stays_though_the_versions_between_do_not_have_it() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a")
    old = made.files["a"]
    for _ in range(3):
        made.save("a")
    made.save(restored={"a": old})
    made.save("b")
    made.save("a")
    # 1 goes, and its neighbours have nothing of it; 5 and 6 have it again
    set_tag(store, "back", 6)
    prune(store, keep_every=2)
    assert fresh(store).numbers() == [2, 4, 6, 7]
    assert old.pack in store.objects
    check_whole(store)
    delete_tag(store, "back")
    prune(store, keep_last=1)
    assert objects_of(store) == needed_by(store, 7)


def test_where_an_older_writer_did_not_say_what_was_brought_back_every_version_is_asked() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a")
    old = made.files["a"]
    for _ in range(3):
        made.save("a")
    made.files["a"] = old
    commit_as_before_there_was_pruning(store, made)
    made.save("b")
    set_tag(store, "back", 5)
    prune(store, keep_every=2)
    assert fresh(store).numbers() == [2, 4, 5, 6]
    assert old.pack in store.objects
    check_whole(store)


def commit_as_before_there_was_pruning(store: MemoryStore, made: Series) -> None:
    """Commit the files as they are by a record that says nothing of what was revived."""
    like = made.commit()
    history = fresh(store)
    inline = history._read(like.seq)[1]
    del store.objects[commit_key(like.seq)]
    history = fresh(store)
    append(
        history,
        history.newest(),
        lambda newest: (replace(like, revival=None, revived=None), inline),
        FakeClock().retry(),
    )
    made.writer = type(made.writer).resume(store, made.writer.epoch, made.writer._holder)


def test_a_version_that_a_live_tree_was_restored_to_stays_until_that_is_saved() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(4):
        made.save("a")
    pin(fresh(store), 2, 4, FakeClock().retry(), epoch=1, host="gpu-07", pid=1)
    pin(fresh(store), 2, 4, FakeClock().retry(), epoch=1, host="gpu-07", pid=1)
    prune(store, keep_last=1)
    assert fresh(store).numbers() == [2, 4]
    check_whole(store)
    made.save("a")
    prune(store, keep_last=1)
    assert fresh(store).numbers() == [5]
    with pytest.raises(NoSuchVersionError, match="pruned"):
        pin(fresh(store), 2, 5, FakeClock().retry(), epoch=1, host="gpu-07", pid=1)


def test_a_writer_that_was_taken_over_pins_nothing_and_says_so() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(2):
        made.save("a")
    acquire(store, "gpu-08", takeover=True)
    before = dict(store.objects)
    with pytest.raises(FencedError, match="gpu-08"):
        pin(fresh(store), 1, 2, FakeClock().retry(), epoch=1, host="gpu-07", pid=1)
    assert store.objects == before


def test_dry_runs_change_nothing_and_tell_what_would_go() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(5):
        made.save("a", "b")
    before = dict(store.objects)
    told = pruner(store).preview(Retention(keep_last=2))
    assert store.objects == before
    assert (told.dropped, told.kept, told.objects) == ([1, 2, 3], 2, 6)
    done = prune(store, keep_last=2)
    assert (done.dropped, done.kept, done.objects, done.size_bytes) == (
        told.dropped,
        told.kept,
        told.objects,
        told.size_bytes,
    )


def test_pruning_again_adds_no_record() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(5):
        made.save("a")
    prune(store, keep_last=2)
    before = dict(store.objects)
    assert prune(store, keep_last=2).dropped == []
    assert store.objects == before


# races: what happens between the decision and the record


def meanwhile(store: MemoryStore, act: Callable[[], object]) -> None:
    """Do something just before the next record of history is created."""

    def before(operation: str, key: str) -> None:
        if operation == "create" and key.startswith("c/"):
            store.before_request = lambda operation, key: None
            act()

    store.before_request = before


def test_a_tag_that_comes_between_saves_its_version() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(4):
        made.save("a")
    meanwhile(store, lambda: set_tag(store, "best", 1))
    assert prune(store, keep_last=1).dropped == [2, 3]
    assert fresh(store).numbers() == [1, 4]
    check_whole(store)


def test_a_version_that_is_saved_between_keeps_what_it_took_over_and_what_it_brought_back() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a", "b")
    old = made.files["a"]
    for _ in range(3):
        made.save("a")
    meanwhile(store, lambda: made.save(restored={"a": old}))
    prune(store, keep_last=1)
    assert fresh(store).numbers() == [5]
    assert objects_of(store) == needed_by(store, 5)
    assert old.pack in store.objects


def test_a_save_that_loses_against_a_collection_looks_again_and_is_refused_what_was_condemned() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a")
    old = made.files["a"]
    made.save("a")
    prune(store, keep_last=1)
    with pytest.raises(CondemnedError, match=old.pack):
        made.save(restored={"a": old})
    made.save("a")
    assert fresh(store).numbers() == [2, 3]
    check_whole(store)


def test_of_two_who_prune_at_once_one_finds_the_other_has_done_it() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(6):
        made.save("a")
    meanwhile(store, lambda: prune(store, keep_last=3))
    assert prune(store, keep_last=2).dropped == [4]
    assert fresh(store).numbers() == [5, 6]
    assert objects_of(store) == needed_by_all(store)


def test_the_next_collection_waits_until_what_another_condemned_is_deleted() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(4):
        made.save("a")
    store.faults = lambda operation, key: Fault.BEFORE if operation == "delete" else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        prune(store, keep_last=3)
    with pytest.raises(StoreUnavailableError):
        prune(store, keep_last=2)
    assert fresh(store).numbers() == [2, 3, 4]
    assert len(objects_of(store)) == 4
    store.faults = lambda operation, key: Fault.NONE
    prune(store, keep_last=3)
    assert objects_of(store) == needed_by_all(store)


def test_a_mount_that_was_taken_over_prunes_nothing_any_more() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(3):
        made.save("a")
    old = pruner(store, epoch=1)
    meanwhile(store, lambda: acquire(store, "gpu-08", takeover=True))
    with pytest.raises(FencedError, match="gpu-08"):
        old.prune(Retention(keep_last=1))
    assert fresh(store).numbers() == [1, 2, 3]


# interruptions


class DiedError(Exception):
    """The process that prunes is gone."""


def test_killed_at_any_request_nothing_dangles_and_the_next_one_finishes() -> None:
    killed = 0
    while True:
        store = MemoryStore()
        made = series(store)
        for number in range(6):
            made.save("a", *(["b"] if number % 2 else []))
        made.put()
        made = Series(acquire(store, "gpu-08", takeover=True))
        left = killed

        def before(operation: str, key: str) -> None:
            nonlocal left
            if left == 0:
                raise DiedError
            left -= 1

        store.before_request = before
        try:
            prune(store, keep_last=2)
        except DiedError:
            killed += 1
        else:
            break
        finally:
            store.before_request = lambda operation, key: None
        check_whole(store)
        made.save("c")
        prune(store, keep_last=2)
        assert fresh(store).numbers() == [6, 7]
        assert objects_of(store) == needed_by_all(store), f"killed at request {killed}"
    assert killed > 20


# orphans


def test_what_crashed_uploads_left_is_collected_but_not_what_the_writer_is_putting_now() -> None:
    store = MemoryStore()
    crashed = series(store)
    crashed.save("a")
    orphan = crashed.put().pack
    writing = Series(acquire(store, "gpu-08", takeover=True))
    writing.files = dict(crashed.files)
    about_to_be_named = writing.put()
    done = prune(store, keep_last=10)
    assert (done.dropped, done.objects, done.orphans, done.size_bytes) == ([], 1, 1, 8)
    assert orphan not in store.objects
    writing.files["b"] = about_to_be_named
    writing.commit()
    check_whole(store)


def test_segments_of_crashed_uploads_are_collected_too() -> None:
    store = MemoryStore()
    crashed = series(store)
    crashed.save("a")
    left = crashed._put_segment(b"a segment")
    writing = Series(acquire(store, "gpu-08", takeover=True))
    own = writing._put_segment(b"a segment")
    prune(store, keep_last=1)
    assert left not in store.objects
    assert own in store.objects


def test_what_a_fenced_writer_puts_late_is_collected_when_the_next_epoch_has_ended() -> None:
    store = MemoryStore()
    zombie = series(store)
    zombie.save("a")
    zombie.put()
    new = Series(acquire(store, "gpu-08", takeover=True))
    prune(store, keep_last=1)
    late = zombie.put().pack
    assert prune(store, keep_last=1).objects == 0
    new.save("b")
    acquire(store, "gpu-09", takeover=True)
    prune(store, keep_last=1)
    assert late not in store.objects
    check_whole(store)


def test_an_epoch_is_searched_for_orphans_once_while_nothing_has_changed() -> None:
    store = MemoryStore()
    made = series(store)
    made.save("a")
    acquire(store, "gpu-08", takeover=True)
    cleaner = pruner(store)
    cleaner.prune(Retention(keep_last=1))
    store.requests.clear()
    cleaner.prune(Retention(keep_last=1))
    assert [key for operation, key in store.requests if operation == "list"] == ["c/"]


# damage


def test_a_damaged_version_can_be_dropped_and_what_it_had_is_found_as_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_INLINE_BYTES", 0)
    store = MemoryStore()
    made = series(store)
    for _ in range(3):
        made.save("a")
    (segment,) = (part.key for part in fresh(store).version(1).parts)
    store.objects[segment] = b"damaged"
    assert prune(store, keep_last=2).damaged == [1]
    assert fresh(store).numbers() == [2, 3]
    check_whole(store)
    acquire(store, "gpu-08", takeover=True)
    assert prune(store, keep_last=2).orphans == 2
    assert objects_of(store) == needed_by_all(store)


def test_beside_a_damaged_version_that_stays_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_INLINE_BYTES", 0)
    store = MemoryStore()
    made = series(store)
    for _ in range(3):
        made.save("a")
    (segment,) = (part.key for part in fresh(store).version(2).parts)
    store.objects[segment] = b"damaged"
    before = dict(store.objects)
    with pytest.raises(CorruptObjectError, match=segment):
        prune(store, keep_last=2)
    assert store.objects == before


# cost


@pytest.mark.parametrize("versions", [50, 800])
def test_dropping_one_version_takes_as_many_requests_whatever_else_there_is(versions: int) -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(versions):
        made.save("a")
    store.requests.clear()
    assert prune(store, keep_last=versions - 1).dropped == [1]
    # records are found by binary search: 6 GETs of 50, 10 of 800
    assert store.count("get") <= 20
    assert store.count("list") <= 2
    assert store.count("delete") == 1


def test_records_of_many_versions_are_read_at_the_same_time() -> None:
    store = MemoryStore()
    made = series(store)
    for _ in range(60):
        made.save("a")
    first, together = threading.Semaphore(4), threading.Barrier(4)

    def before(operation: str, key: str) -> None:
        is_ahead = threading.current_thread() is not threading.main_thread()
        if is_ahead and operation == "get" and first.acquire(blocking=False):
            together.wait(20)

    store.before_request = before
    assert prune(store, keep_last=1).dropped == list(range(1, 60))
    assert not first.acquire(blocking=False)
    assert objects_of(store) == needed_by(store, 60)


def test_one_who_prunes_after_each_save_reads_each_version_once() -> None:
    store = MemoryStore()
    made = series(store)
    cleaner = pruner(store)
    for _ in range(20):
        made.save("a", "b")
        cleaner.prune(Retention(keep_last=4))
    store.requests.clear()
    for _ in range(10):
        made.save("a", "b")
        cleaner.prune(Retention(keep_last=4))
    puts = store.count("put") + store.count("create")
    assert store.count("get") <= 10 * 12
    assert puts <= 10 * 6
    assert objects_of(store) == needed_by_all(store)
    assert fresh(store).numbers() == [27, 28, 29, 30]


def test_a_record_condemns_no_more_than_fits_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfs.versions.collection.MAX_KEYS", 3)
    store = MemoryStore()
    made = series(store)
    for _ in range(10):
        made.save("a", "b")
    assert Pruner(fresh(store), FakeClock().retry(), host="c", pid=1).prune(Retention(keep_last=1)).dropped == list(
        range(1, 10)
    )
    collections = [record for record in all_records(store) if record.kind is CommitKind.GC]
    assert len(collections) > 3
    assert objects_of(store) == needed_by(store, 10)
