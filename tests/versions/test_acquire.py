"""Becoming the one writer: when a holder is waited for, refused, or fenced at once (acquire.py, leasing.py)."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from ckptfs.errors import CorruptObjectError, FencedError, HeldError, StoreUnavailableError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.keys import LEASE_KEY, commit_key
from ckptfs.format.lease import LeaseRecord, decode_lease
from ckptfs.versions.tags import set_tag
from ckptfs.versions.writer import Writer
from tests.versions.memory_store import Fault, MemoryStore, fail_next
from tests.versions.scene import FakeClock, acquire, all_records, fresh, holder, resume, save


def renew_all(writers: list[Writer]) -> None:
    for writer in writers:
        writer.renew()


class World(FakeClock):
    """A clock on which something else happens every now and then while somebody sleeps."""

    def __init__(self, every_s: float, event: Callable[[], object]) -> None:
        super().__init__()
        self._next_s = self._every_s = every_s
        self._event = event

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        while self.now_s >= self._next_s:
            self._next_s += self._every_s
            self._event()


def lease_of(store: MemoryStore) -> LeaseRecord:
    return decode_lease(store.objects[LEASE_KEY])


def once(action: Callable[[], object]) -> Callable[[], object]:
    """An event of a World that happens the first time only."""
    done: list[bool] = []

    def event() -> None:
        if not done:
            done.append(True)
            action()

    return event


def test_the_first_writer_fences_an_empty_history_and_writes_its_lease() -> None:
    store = MemoryStore()
    writer = Writer.acquire(store, holder("gpu-07"), lease_s=12)
    assert writer.epoch == 1
    assert [(record.kind, record.epoch, record.host) for record in all_records(store)] == [("fence", 1, "gpu-07")]
    lease = lease_of(store)
    assert (lease.epoch, lease.held, lease.host, lease.pid, lease.lease_s) == (1, True, "gpu-07", 4121, 12)
    assert (lease.machine, lease.lock, lease.lock_id) == ("boot-of-gpu-07", "/cache/lock", "8:1")


def test_a_live_holder_is_not_displaced_and_is_named_as_soon_as_it_is_seen_alive() -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")
    world = World(10, first.renew)
    with pytest.raises(HeldError, match=r"memory://store is mounted read-write by gpu-07 \(pid 4121") as caught:
        acquire(store, "gpu-08", time=world)
    assert caught.value.hint is not None
    assert "--takeover" in caught.value.hint
    assert world.now_s < 12
    assert save(first).version == 1


def test_a_silent_holder_is_waited_for_as_long_as_its_lease_says_and_no_longer() -> None:
    store = MemoryStore()
    Writer.acquire(store, holder("gpu-07"), lease_s=20)
    idle = FakeClock()
    said: list[str] = []
    writer = Writer.acquire(store, holder("b"), lease_s=30, on_wait=said.append, clock=idle.clock, sleep=idle.sleep)
    assert writer.epoch == 2
    assert 20 <= idle.now_s <= 22
    assert len(said) == 1
    assert "gpu-07" in said[0]


def test_the_clocks_of_two_hosts_are_never_compared() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07", time=FakeClock(now_s=1e9))
    idle = FakeClock(now_s=5.0)
    acquire(store, "gpu-08", time=idle)
    assert 30 <= idle.now_s - 5.0 <= 32


def test_a_store_that_was_given_back_is_taken_without_waiting() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07").release()
    idle = FakeClock()
    assert acquire(store, "gpu-08", time=idle).epoch == 2
    assert idle.now_s == 0


def test_a_store_that_is_given_back_while_we_wait_is_taken_then() -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")

    def leave() -> None:
        save(first)
        first.release()

    world = World(7, once(leave))
    writer = acquire(store, "gpu-08", time=world)
    assert world.now_s < 10
    assert writer.newest.version == 1


def test_takeover_fences_a_live_holder_at_once() -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")
    idle = FakeClock()
    second = acquire(store, "gpu-08", time=idle, takeover=True)
    assert idle.now_s == 0
    save(second)
    with pytest.raises(FencedError, match=r"gpu-08 \(pid 4121, epoch 2\)"):
        save(first)


def test_a_holder_on_this_machine_that_is_dead_for_certain_is_not_waited_for() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    idle = FakeClock()
    asked: list[LeaseRecord] = []

    def dead(lease: LeaseRecord) -> bool:
        asked.append(lease)
        return True

    writer = Writer.acquire(store, holder("gpu-07"), holder_is_dead=dead, clock=idle.clock, sleep=idle.sleep)
    assert (writer.epoch, idle.now_s) == (2, 0)
    assert [(lease.lock, lease.lock_id, lease.machine) for lease in asked] == [("/cache/lock", "8:1", "boot-of-gpu-07")]


def test_one_that_died_between_its_fence_and_its_lease_is_not_waited_for_where_that_is_known() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    del store.objects[LEASE_KEY]
    idle = FakeClock()
    asked: list[tuple[str, int]] = []

    def dead(record: CommitRecord) -> bool:
        asked.append((record.host, record.pid))
        return True

    writer = Writer.acquire(store, holder("gpu-07"), maker_is_dead=dead, clock=idle.clock, sleep=idle.sleep)
    assert (writer.epoch, idle.now_s, asked) == (2, 0, [("gpu-07", 4121)])
    # where it is not known, its lease is
    del store.objects[LEASE_KEY]
    Writer.acquire(store, holder("gpu-07"), clock=idle.clock, sleep=idle.sleep)
    assert idle.now_s >= 30


def test_a_holder_on_this_machine_that_is_alive_for_certain_is_refused_without_waiting() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    idle = FakeClock()
    with pytest.raises(HeldError, match="gpu-07"):
        Writer.acquire(store, holder("b"), holder_is_alive=lambda _: True, clock=idle.clock, sleep=idle.sleep)
    assert idle.now_s == 0


def test_a_holder_that_commits_while_we_wait_is_alive_whatever_its_lease_says() -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")
    world = World(20, lambda: save(first))
    with pytest.raises(HeldError, match="gpu-07"):
        acquire(store, "gpu-08", time=world)
    assert save(first).version == 2


def test_a_holder_that_commits_when_we_are_about_to_fence_it_is_looked_at_again() -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")

    def the_silent_one_commits(operation: str, key: str) -> None:
        if operation == "create" and key == commit_key(2):
            store.before_request = lambda operation, key: None
            save(first)

    store.before_request = the_silent_one_commits
    idle = World(40, first.renew)
    with pytest.raises(HeldError, match="gpu-07"):
        acquire(store, "gpu-08", time=idle)
    assert save(first).version == 2


def test_tags_of_others_while_we_wait_are_no_sign_of_life() -> None:
    store = MemoryStore()
    save(acquire(store, "gpu-07"))
    tags = iter(range(100))
    world = World(4, lambda: set_tag(store, f"t{next(tags)}", 1))
    assert acquire(store, "gpu-08", time=world).epoch == 2


@pytest.mark.parametrize("before", ["no lease", "a lease of the epoch before, given back"])
def test_a_holder_that_has_fenced_but_not_yet_written_its_lease_counts_as_alive(before: str) -> None:
    store = MemoryStore()
    acquire(store, "gpu-06").release()
    given_back = store.objects[LEASE_KEY]
    acquire(store, "gpu-07")
    on_its_way = store.objects.pop(LEASE_KEY)
    if before != "no lease":
        store.objects[LEASE_KEY] = given_back
    world = World(3, lambda: store.put(LEASE_KEY, on_its_way))
    with pytest.raises(HeldError, match="gpu-07"):
        acquire(store, "gpu-08", time=world)


def test_a_holder_that_died_before_writing_its_lease_is_waited_for_once() -> None:
    store = MemoryStore()
    store.faults = lambda operation, key: Fault.BEFORE if operation == "put" else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        acquire(store, "gpu-07")
    store.faults = fail_next("put", "")
    idle = FakeClock()
    assert acquire(store, "gpu-08", time=idle).epoch == 2
    assert 30 <= idle.now_s <= 32


def test_a_fenced_writer_that_overwrites_the_new_holders_lease_opens_no_door() -> None:
    store = MemoryStore()
    old = acquire(store, "gpu-07")
    old_lease = store.objects[LEASE_KEY]
    new = acquire(store, "gpu-08", takeover=True)
    for late in (old_lease, old_lease.replace(b'"held":true', b'"held":false')):
        store.objects[LEASE_KEY] = late
        with pytest.raises(HeldError, match="gpu-08"):
            acquire(store, "gpu-09", time=World(10, new.renew))
    assert save(new).version == 1
    with pytest.raises(FencedError):
        save(old)


def test_a_damaged_lease_counts_as_a_missing_one() -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")
    store.objects[LEASE_KEY] = b"\0"
    with pytest.raises(HeldError):
        acquire(store, "gpu-08", time=World(10, first.renew))
    store.objects[LEASE_KEY] = b"\0"
    assert acquire(store, "gpu-08").epoch == 2


def test_a_lease_that_is_bent_on_its_way_is_no_sign_of_life() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    whole, reads = store.objects[LEASE_KEY], 0

    def bend(operation: str, key: str) -> None:
        """The first answer is bent, and those after it are whole."""
        nonlocal reads
        if (operation, key) == ("get", LEASE_KEY):
            reads += 1
            store.objects[LEASE_KEY] = whole if reads > 1 else bytes([whole[0] ^ 1]) + whole[1:]

    store.before_request = bend
    assert acquire(store, "gpu-08").epoch == 2


def test_a_lease_that_comes_late_from_one_who_is_known_to_be_dead_is_no_sign_of_life() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    late = store.objects.pop(LEASE_KEY)
    world = World(5, once(lambda: store.objects.update({LEASE_KEY: late})))
    writer = Writer.acquire(
        store, holder("gpu-07"), holder_is_dead=lambda _: True, clock=world.clock, sleep=world.sleep
    )
    assert (writer.epoch, world.now_s < 10) == (2, True)
    # where that is not known, it is one
    late = store.objects.pop(LEASE_KEY)
    world = World(5, once(lambda: store.objects.update({LEASE_KEY: late})))
    with pytest.raises(HeldError, match="renewed just now"):
        Writer.acquire(store, holder("gpu-08"), clock=world.clock, sleep=world.sleep)


def test_a_lease_of_an_epoch_that_history_lacks_shows_that_records_are_missing() -> None:
    store = MemoryStore()
    acquire(store, "gpu-07")
    acquire(store, "gpu-08", takeover=True)
    del store.objects[commit_key(2)]
    with pytest.raises(CorruptObjectError, match="epoch 2"):
        acquire(store, "gpu-09")


def test_of_two_who_found_the_holder_dead_one_gets_the_store_and_the_other_is_refused() -> None:
    store = MemoryStore()
    acquire(store, "dead")
    second: list[Writer] = []

    def another_is_quicker(operation: str, key: str) -> None:
        if operation == "create" and key == commit_key(2) and not second:
            store.before_request = lambda operation, key: None
            second.append(acquire(store, "quick"))

    store.before_request = another_is_quicker
    with pytest.raises(HeldError, match="quick"):
        acquire(store, "slow", time=World(10, lambda: renew_all(second)))
    assert save(second[0]).version == 1
    assert [record.host for record in all_records(store)] == ["dead", "quick", "quick"]


def test_of_two_who_take_over_at_once_one_gets_the_store_and_the_other_is_refused() -> None:
    store = MemoryStore()
    acquire(store, "old")
    second: list[Writer] = []

    def another_is_quicker(operation: str, key: str) -> None:
        if operation == "create" and key == commit_key(2) and not second:
            store.before_request = lambda operation, key: None
            second.append(acquire(store, "quick", takeover=True))

    store.before_request = another_is_quicker
    with pytest.raises(HeldError, match="quick"):
        acquire(store, "slow", time=World(10, lambda: renew_all(second)), takeover=True)
    assert save(second[0]).version == 1


def test_a_version_committed_just_before_a_takeover_is_kept() -> None:
    store = MemoryStore()
    old = acquire(store, "old")

    def the_old_one_commits_first(operation: str, key: str) -> None:
        if operation == "create" and key == commit_key(2):
            store.before_request = lambda operation, key: None
            save(old)

    store.before_request = the_old_one_commits_first
    new = acquire(store, "new", takeover=True)
    assert (new.newest.seq, new.newest.version) == (3, 1)
    assert save(new).version == 2


def test_threads_that_race_for_an_empty_store_make_one_writer() -> None:
    store = MemoryStore()
    writers: list[Writer] = []
    refused: list[HeldError] = []
    together = threading.Barrier(8)

    def race(host: str) -> None:
        together.wait()
        try:
            writers.append(Writer.acquire(store, holder(host), sleep=lambda _: time.sleep(0.01)))
        except HeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=race, args=(f"host-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        renew_all(writers)
        time.sleep(0.005)
    assert (len(writers), len(refused)) == (1, 7)
    assert [record.kind for record in all_records(store)] == ["fence"]


def test_a_listing_that_lags_hides_neither_holder_nor_versions_from_a_writer() -> None:
    store = MemoryStore(list_lag=3)
    first = acquire(store, "gpu-07")
    save(first)
    with pytest.raises(HeldError, match="gpu-07"):
        acquire(store, "gpu-08", time=World(10, first.renew))
    second = acquire(store, "gpu-08", takeover=True)
    assert resume(store, second.epoch, "gpu-08").newest == second.newest
    set_tag(store, "best", "latest")
    with pytest.raises(HeldError, match="gpu-08"):
        acquire(store, "gpu-09", time=World(10, second.renew))
    store.list_lag = 0
    assert [record.kind for record in all_records(store)] == ["fence", "save", "fence", "tag"]


def test_resuming_an_epoch_writes_nothing() -> None:
    store = MemoryStore()
    epoch = acquire(store).epoch
    before = dict(store.objects)
    assert resume(store, epoch).epoch == epoch
    assert store.objects == before


def test_resuming_an_epoch_that_was_taken_over_is_refused_naming_the_host() -> None:
    store = MemoryStore()
    epoch = acquire(store, "gpu-07").epoch
    acquire(store, "gpu-08", takeover=True)
    with pytest.raises(FencedError, match="gpu-08"):
        resume(store, epoch)


def test_resuming_in_a_history_that_went_back_is_refused() -> None:
    store = MemoryStore()
    acquire(store)
    epoch = acquire(store, takeover=True).epoch
    del store.objects[commit_key(2)]
    with pytest.raises(CorruptObjectError, match=commit_key(1)):
        resume(store, epoch)


def test_a_renewal_raises_the_counter_and_costs_two_requests() -> None:
    store = MemoryStore()
    writer = acquire(store)
    before = lease_of(store)
    store.requests.clear()
    writer.renew()
    assert store.requests == [("get", LEASE_KEY), ("put", LEASE_KEY)]
    assert lease_of(store) == replace(before, counter=before.counter + 1)


def test_a_renewal_after_a_takeover_says_so_and_leaves_the_new_lease_alone() -> None:
    store = MemoryStore()
    old = acquire(store, "gpu-07")
    acquire(store, "gpu-08", takeover=True)
    lease = lease_of(store)
    with pytest.raises(FencedError, match="gpu-08"):
        old.renew()
    assert old.is_fenced
    assert lease_of(store) == lease


def test_the_counter_goes_on_rising_in_the_process_that_resumes() -> None:
    store = MemoryStore()
    first = acquire(store)
    for _ in range(5):
        first.renew()
    before = lease_of(store).counter
    second = resume(store, first.epoch)
    second.renew()
    assert lease_of(store).counter == before + 1
    first.release()
    assert lease_of(store).counter == before + 2


def test_what_was_given_back_is_not_renewed_by_a_process_that_has_not_noticed() -> None:
    store = MemoryStore()
    mount = acquire(store)
    upload = resume(store, mount.epoch)
    mount.release()
    upload.renew()
    assert not lease_of(store).held


def test_giving_back_what_another_has_taken_over_changes_nothing() -> None:
    store = MemoryStore()
    old = acquire(store, "gpu-07")
    acquire(store, "gpu-08", takeover=True)
    lease = lease_of(store)
    old.release()
    assert lease_of(store) == lease


def test_a_renewal_gives_up_before_the_next_one_is_due() -> None:
    store = MemoryStore()
    idle = FakeClock()
    writer = acquire(store, time=idle)
    store.faults = lambda operation, key: Fault.BEFORE
    with pytest.raises(StoreUnavailableError):
        writer.renew()
    assert idle.now_s <= 16


class JumpingWallClock:
    """The machine's wall clock, set by years to and fro whenever somebody looks."""

    def __init__(self) -> None:
        self.looks = 0

    def time_ns(self) -> int:
        self.looks += 1
        years = (0, 30, -20, 1)[self.looks % 4]
        return 1_790_000_000_000_000_000 + years * 365 * 86_400 * 10**9


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> JumpingWallClock:
    clock = JumpingWallClock()
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    monkeypatch.setattr(time, "time", lambda: clock.time_ns() / 1e9)
    return clock


def test_a_wall_clock_that_jumps_refuses_nobody_who_may_write_and_lets_nobody_in_who_may_not(
    wall: JumpingWallClock,
) -> None:
    store = MemoryStore()
    first = acquire(store, "gpu-07")
    save(first, 2)
    # a holder that renews is alive, however far apart the clocks are
    alive = World(10, first.renew)
    with pytest.raises(HeldError, match="renewed just now"):
        acquire(store, "gpu-08", time=alive)
    # one that does not is waited for as long as its lease says: by the observer's own monotonic clock
    silent = FakeClock()
    second = acquire(store, "gpu-08", time=silent)
    assert 30 <= silent.now_s < 33
    save(second, 2)
    with pytest.raises(FencedError):
        save(first)
    with pytest.raises(FencedError):
        first.renew()
    assert [record.version for record in fresh(store).versions()] == [4, 3, 2, 1]
    times = [record.time_ns for record in all_records(store)]
    assert times != sorted(times)
    assert wall.looks > 5
