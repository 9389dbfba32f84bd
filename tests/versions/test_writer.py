"""Committing versions: once each, on top of what they were made from, and never after a fence (writer.py W1 to W5)."""

import threading
from dataclasses import replace

import pytest

from ckptfs.errors import CondemnedError, DivergedError, FencedError, RollbackError, StoreUnavailableError
from ckptfs.format.commit import PartRef
from ckptfs.format.keys import commit_key
from ckptfs.format.lease import decode_lease, encode_lease
from ckptfs.versions.tags import set_tag
from ckptfs.versions.writer import SaveDraft, Writer
from tests.versions.memory_store import Fault, MemoryStore, fail_next, no_faults
from tests.versions.scene import acquire, all_records, collect, draft, fresh, holder, resume, save


def test_a_committed_version_holds_what_its_draft_says() -> None:
    store = MemoryStore()
    writer = acquire(store, "gpu-07")
    made = replace(draft(1), note={"loss": 0.5}, files=3, bytes=10, bytes_added=4, torn=1, captured_ns=77)
    record = writer.commit_save(made)
    assert fresh(store).head() == record
    assert (record.version, record.seq, record.head, record.epoch, record.host) == (1, 2, 2, 1, "gpu-07")
    assert (record.note, record.files, record.bytes, record.bytes_added) == ({"loss": 0.5}, 3, 10, 4)
    assert (record.torn, record.captured_ns, record.commit_id) == (1, 77, made.commit_id)
    assert fresh(store).tree(record).keys() == {b"", b"step"}


def test_a_save_is_one_request_when_nobody_else_wrote() -> None:
    store = MemoryStore()
    writer = acquire(store)
    store.requests.clear()
    save(writer)
    assert store.requests == [("create", commit_key(2))]


@pytest.mark.parametrize(
    "faults",
    [
        [Fault.BEFORE],
        [Fault.REPLY_LOST],
        [Fault.REPLY_LOST_AND_RETRIED],
        [Fault.LATE],
        [Fault.TWICE],
        [Fault.LATE, Fault.LATE, Fault.BEFORE, Fault.REPLY_LOST],
    ],
)
def test_a_save_whose_reply_is_lost_is_committed_once(faults: list[Fault]) -> None:
    store = MemoryStore()
    writer = acquire(store)
    store.faults = fail_next("create", "c/", *faults)
    first = save(writer)
    while store.late:
        store.deliver()
    second = save(writer)
    assert [record.version for record in fresh(store).versions()] == [2, 1]
    assert (first.seq, second.seq) == (2, 3)


def test_committing_a_version_again_returns_its_record() -> None:
    store = MemoryStore()
    writer = acquire(store)
    made = draft(1)
    record = writer.commit_save(made)
    save(writer, 3)
    before = dict(store.objects)
    assert writer.commit_save(made) == record
    assert resume(store, writer.epoch).commit_save(made) == record
    assert store.objects == before


@pytest.mark.parametrize("fault", [Fault.REPLY_LOST, Fault.LATE])
def test_a_crash_between_the_commit_and_its_reply_is_found_out_by_the_process_that_resumes(fault: Fault) -> None:
    store = MemoryStore()
    epoch = acquire(store).epoch
    made = draft(1)
    crash_while_committing(store, epoch, made, fault)
    resumed = resume(store, epoch)
    if store.late:
        store.deliver()  # only now, after the new process has looked
    record = resumed.commit_save(replace(made, bytes_added=99))
    assert (record.seq, record.bytes_added) == (2, 0)
    assert save(resumed).seq == 3
    assert [each.version for each in fresh(store).versions()] == [2, 1]


def test_a_tag_after_a_commit_whose_reply_was_lost_does_not_hide_it() -> None:
    store = MemoryStore()
    epoch = acquire(store).epoch
    made = draft(1)
    crash_while_committing(store, epoch, made, Fault.REPLY_LOST)
    set_tag(store, "best", 1)
    assert resume(store, epoch).commit_save(made).seq == 2


def test_a_save_that_ran_out_of_time_can_be_tried_again_by_the_same_writer() -> None:
    store = MemoryStore()
    writer = acquire(store)
    made = draft(1)
    store.faults = lambda operation, key: Fault.LATE if operation == "create" else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        writer.commit_save(made)
    store.faults = fail_next("create", "")
    store.deliver()
    assert writer.commit_save(made).seq == 2
    assert len(all_records(store)) == 2


def test_tags_and_collections_of_others_are_stepped_over_and_carried_on() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer, 3)
    set_tag(store, "best", 2)
    collect(store, dropped=[(1, 1)])
    record = save(writer)
    assert (record.version, record.seq, record.tags, record.gc) == (4, 7, 5, 6)
    assert fresh(store).tags() == {"best": 2}
    assert fresh(store).numbers() == [2, 3, 4]


def test_a_version_that_names_a_condemned_pack_is_refused_and_can_be_committed_without_it() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer, 2)
    pack = "p/0000000001-" + "ab" * 16
    collect(store, dropped=[(1, 1)], condemned=[pack])
    made = draft(3)
    with pytest.raises(CondemnedError, match=pack):
        writer.commit_save(replace(made, revived=frozenset([pack])))
    assert writer.commit_save(made).version == 3
    with pytest.raises(CondemnedError, match=pack):
        writer.commit_save(replace(draft(4), revived=frozenset([pack])))


@pytest.mark.parametrize("since", ["before this process", "in an epoch before"])
def test_what_was_condemned_before_we_began_is_refused_too(since: str) -> None:
    store = MemoryStore()
    epoch = save(acquire(store), 2).epoch
    pack = "p/0000000001-" + "ab" * 16
    collect(store, dropped=[(1, 1)], condemned=[pack])
    collect(store, dropped=[(1, 1)], condemned=["p/0000000001-" + "cd" * 16])
    if since == "in an epoch before":
        acquire(store, takeover=True)
        epoch = acquire(store, takeover=True).epoch
    writer = resume(store, epoch)
    save(writer)
    with pytest.raises(CondemnedError, match=pack):
        writer.commit_save(replace(draft(4), revived=frozenset([pack, f"p/{epoch:010d}-{'ef' * 16}"])))
    collect(store, condemned=[later := "p/0000000001-" + "12" * 16])
    with pytest.raises(CondemnedError, match=later):
        writer.commit_save(replace(draft(4), revived=frozenset([later])))


def test_collections_of_earlier_epochs_are_not_read_for_packs_of_our_own() -> None:
    store = MemoryStore()
    save(acquire(store))
    for _ in range(50):
        collect(store, condemned=["p/0000000001-" + "ab" * 16])
    writer = acquire(store, takeover=True)
    store.requests.clear()
    writer.commit_save(replace(draft(2), revived=frozenset(["p/0000000002-" + "cd" * 16])))
    assert store.count("get") <= 1


def test_a_record_that_the_writer_has_met_costs_its_next_commit_nothing() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer, 2)
    writer.meet(collect(store, dropped=[(1, 1)]))
    store.requests.clear()
    save(writer)
    assert store.count("create") == 1
    # one that does not follow, or is another's, is left for the race to show
    first = collect(store)
    writer.meet(collect(store))
    save(writer)
    assert writer.newest.seq == first.seq + 2
    fence = acquire(store, "gpu-08", takeover=True).newest
    writer.meet(fence)
    with pytest.raises(FencedError):
        save(writer)


def test_a_version_that_names_a_condemned_segment_is_refused() -> None:
    store = MemoryStore()
    writer = acquire(store)
    segment = "m/" + "cd" * 16
    collect(store, condemned=[segment])
    part = PartRef("segment", 0, 10, 10, 1, 0, bytes(32), key=segment)
    with pytest.raises(CondemnedError, match=segment):
        writer.commit_save(replace(draft(1), parts=(part,), inline=b""))


def test_a_fenced_writer_never_commits_again_and_sends_no_more_writes() -> None:
    store = MemoryStore()
    old = acquire(store, "gpu-07")
    save(old)
    new = acquire(store, "gpu-08", takeover=True)
    set_tag(store, "best", 1)
    save(new)
    with pytest.raises(FencedError, match="gpu-08"):
        save(old)
    store.requests.clear()
    with pytest.raises(FencedError, match="gpu-08"):
        save(old)
    assert (old.is_fenced, new.is_fenced) == (True, False)
    assert {operation for operation, _ in store.requests} <= {"get"}
    assert [(record.version, record.host) for record in fresh(store).versions()] == [(2, "gpu-08"), (1, "gpu-07")]


def test_a_late_commit_of_a_fenced_writer_never_takes_effect() -> None:
    store = MemoryStore()
    old = acquire(store, "gpu-07")
    made = draft(1)
    crash_while_committing(store, old.epoch, made, Fault.LATE)
    new = acquire(store, "gpu-08", takeover=True)
    store.deliver()
    save(new)
    with pytest.raises(FencedError):
        old.commit_save(made)
    assert [record.host for record in fresh(store).versions()] == ["gpu-08"]


def test_a_version_that_entered_history_before_the_fence_is_not_reported_as_lost() -> None:
    store = MemoryStore()
    old = acquire(store, "gpu-07")
    made = draft(1)
    crash_while_committing(store, old.epoch, made, Fault.REPLY_LOST)
    acquire(store, "gpu-08", takeover=True)
    with pytest.raises(FencedError):
        old.renew()
    assert old.commit_save(made).version == 1
    with pytest.raises(FencedError):
        old.commit_save(draft(2))


def test_a_version_that_skips_one_is_refused_unless_it_says_what_it_was_made_against() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer)
    with pytest.raises(DivergedError, match="newest version of memory://store is 1"):
        writer.commit_save(draft(3))
    record = writer.commit_save(replace(draft(4), base=1))
    assert record.gaps == ((2, 3),)
    assert writer.commit_save(replace(draft(6), base=4)).gaps == ((2, 3), (5, 5))
    assert fresh(store).numbers() == [1, 4, 6]


def test_a_version_made_against_an_older_one_is_refused() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer, 2)
    with pytest.raises(DivergedError):
        writer.commit_save(replace(draft(3), base=1))
    with pytest.raises(DivergedError):
        writer.commit_save(replace(draft(3), base=3))


def test_a_number_that_history_has_given_to_another_version_is_refused() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    save(acquire(store, "gpu-08", takeover=True), 2)
    again = acquire(store, "gpu-07", takeover=True)
    for number in (1, 2):
        with pytest.raises(DivergedError):
            again.commit_save(draft(number))
    assert save(again).version == 3


def test_a_number_that_became_a_gap_cannot_be_used_later() -> None:
    store = MemoryStore()
    writer = acquire(store)
    writer.commit_save(replace(draft(2), base=0))
    with pytest.raises(DivergedError):
        writer.commit_save(draft(1))


def test_a_store_that_was_put_back_is_noticed_by_the_renewal_and_gets_no_history_with_a_hole() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer)
    older = dict(store.objects)
    writer.renew()
    save(writer)
    newer = dict(store.objects)
    store.objects = dict(older)
    for _ in range(2):
        with pytest.raises(RollbackError, match=r"commit 3 of .* is not there any more"):
            writer.renew()
    with pytest.raises(RollbackError):
        save(writer)
    assert store.objects == older
    # it was a mistake, and is put right
    store.objects = newer
    assert save(writer).version == 3
    writer.renew()
    assert [record.version for record in fresh(store).versions()] == [3, 2, 1]


def test_a_store_that_was_put_back_and_has_another_writer_of_the_same_epoch_is_noticed() -> None:
    store = MemoryStore()
    older = dict(store.objects)
    writer = acquire(store, "gpu-07")
    save(writer)
    writer.renew()
    store.objects = older
    save(acquire(store, "gpu-08"))
    with pytest.raises(RollbackError):
        writer.renew()


def test_after_a_renewal_that_failed_the_next_looks_and_goes_on() -> None:
    store = MemoryStore()
    writer = acquire(store)
    save(writer)
    store.faults = fail_next("put", "lease", *[Fault.BEFORE] * 1000)
    with pytest.raises(StoreUnavailableError):
        writer.renew()
    store.faults = no_faults
    store.requests.clear()
    writer.renew()
    assert [name for name, _ in store.requests] == ["get", "get", "put"]
    store.requests.clear()
    writer.renew()
    assert [name for name, _ in store.requests] == ["get", "put"]


def test_a_lease_of_a_later_epoch_that_history_does_not_have_shuts_nobody_out() -> None:
    # one bit makes 12 of 16: a lease that an older ckptfs wrote has no check
    store = MemoryStore()
    writer = acquire(store)
    save(writer)
    store.objects["lease"] = encode_lease(replace(decode_lease(store.objects["lease"]), epoch=writer.epoch + 4))
    writer.renew()
    assert not writer.is_fenced
    assert save(writer).version == 2
    assert decode_lease(store.objects["lease"]).epoch == writer.epoch


def test_one_thread_may_renew_while_another_commits() -> None:
    store = MemoryStore()
    writer = acquire(store)
    stop = threading.Event()

    def renew() -> None:
        while not stop.is_set():
            writer.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        save(writer, 100)
    finally:
        stop.set()
        thread.join()
    assert fresh(store).numbers() == list(range(1, 101))


def crash_while_committing(store: MemoryStore, epoch: int, made: SaveDraft, fault: Fault) -> None:
    """Let the process of an epoch die while one request to commit is on its way."""
    store.faults = fail_next("create", "c/", fault)
    with pytest.raises(StoreUnavailableError):
        Writer.resume(store, epoch, holder(), retry_budget_s=0).commit_save(made)
