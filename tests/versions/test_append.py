"""Appending to history: races, lost replies and late requests (append.py A1 to A3)."""

import secrets
from dataclasses import replace

import pytest

from ckptfs.errors import CorruptObjectError, StoreUnavailableError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.commit_bytes import encode_commit
from ckptfs.format.keys import commit_key
from ckptfs.versions.append import Build, append, successor
from ckptfs.versions.history import History
from ckptfs.versions.retry import Retry
from tests.versions.memory_store import Fault, MemoryStore, fail_next
from tests.versions.scene import FakeClock


def fence_by(host: str) -> Build:
    commit_id = secrets.token_hex(16)

    def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        return successor(newest, CommitKind.FENCE, commit_id, host=host, pid=1), b""

    return build


def new_store() -> tuple[MemoryStore, History]:
    store = MemoryStore()
    return store, History(store, "0" * 32)


def test_the_first_record_has_seq_1_and_the_next_ones_follow() -> None:
    store, history = new_store()
    first = append(history, None, fence_by("a"), FakeClock().retry())
    second = append(history, first, fence_by("a"), FakeClock().retry())
    assert [first.seq, second.seq, second.parent] == [1, 2, 1]
    assert sorted(store.objects) == [commit_key(2), commit_key(1)]


def test_an_appended_record_is_not_read_back_by_a_later_question() -> None:
    store, history = new_store()
    record = append(history, None, fence_by("a"), FakeClock().retry())
    assert history.record(1) == record
    assert store.count("get") == 0


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.REPLY_LOST, Fault.REPLY_LOST_AND_RETRIED, Fault.TWICE])
def test_a_create_of_unknown_outcome_is_repeated_until_it_is_known(fault: Fault) -> None:
    store, history = new_store()
    store.faults = fail_next("create", "c/", fault)
    record = append(history, None, fence_by("a"), FakeClock().retry())
    assert record.seq == 1
    assert History(store, "").newest() == record
    assert len(store.objects) == 1


def test_the_same_body_is_sent_to_the_same_key_again() -> None:
    store, history = new_store()
    store.faults = fail_next("create", "c/", Fault.LATE, Fault.LATE, Fault.BEFORE)
    append(history, None, fence_by("a"), FakeClock().retry())
    assert len(store.late) == 2
    assert {(key, body) for _, key, body in store.late} == {(commit_key(1), store.objects[commit_key(1)])}


def test_a_late_duplicate_of_a_record_changes_nothing() -> None:
    store, history = new_store()
    store.faults = fail_next("create", "c/", Fault.LATE)
    append(history, None, fence_by("a"), FakeClock().retry())
    before = dict(store.objects)
    store.deliver()
    assert store.objects == before


def test_a_late_attempt_that_lost_its_number_never_takes_effect() -> None:
    store, history = new_store()
    first = append(history, None, fence_by("a"), FakeClock().retry())
    time = FakeClock()

    def sleep_while_another_appends(seconds: float) -> None:
        time.sleep(seconds)
        if len(store.objects) == 1:
            append(History(store, ""), first, fence_by("quick"), FakeClock().retry())

    store.faults = fail_next("create", "c/", Fault.LATE)
    record = append(history, first, fence_by("slow"), Retry(clock=time.clock, sleep=sleep_while_another_appends))
    store.deliver()
    assert [each.host for each in (History(store, "").record(seq) for seq in (1, 2, 3))] == ["a", "quick", "slow"]
    assert record.seq == 3


def test_whoever_loses_a_race_meets_the_winners_record_and_goes_on_after_it() -> None:
    store, history = new_store()
    first = append(history, None, fence_by("a"), FakeClock().retry())
    other = History(store, "")
    for host in ("b", "c", "d"):
        append(other, first, fence_by(host), FakeClock().retry())
    seen: list[int] = []
    build = fence_by("e")

    def watching(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        seen.append(newest.seq if newest is not None else 0)
        return build(newest)

    record = append(history, first, watching, FakeClock().retry())
    assert (record.seq, record.epoch) == (5, 5)
    assert seen == [1, 2, 3, 4]


def test_the_attempts_end_with_the_budget_and_the_error_says_so() -> None:
    store, history = new_store()
    store.faults = lambda operation, key: Fault.BEFORE
    time = FakeClock()
    with pytest.raises(StoreUnavailableError):
        append(history, None, fence_by("a"), time.retry(budget_s=20))
    assert 20 <= time.now_s <= 25
    assert 5 < store.count("create") < 60


def test_going_on_after_the_budget_finds_the_attempt_that_got_through() -> None:
    store, history = new_store()
    build = fence_by("a")
    store.faults = lambda operation, key: Fault.LATE if operation == "create" else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        append(history, None, build, FakeClock().retry(budget_s=1))
    store.deliver()
    store.faults = fail_next("create", "c/")
    record = append(history, None, build, FakeClock().retry())
    assert record.seq == 1
    assert len(store.objects) == 1


def test_a_record_that_breaks_the_chain_is_not_built_upon() -> None:
    store, history = new_store()
    first = append(history, None, fence_by("a"), FakeClock().retry())
    stranger = replace(
        successor(first, CommitKind.FENCE, "0" * 32, host="b", pid=1), epoch=1, kind=CommitKind.TAG, tags=2
    )
    store.objects[commit_key(2)] = encode_commit(replace(stranger, version=7, head=1, gaps=((1, 6),)))
    with pytest.raises(CorruptObjectError, match=f"{commit_key(2)}.*version 7"):
        append(history, first, fence_by("c"), FakeClock().retry())
