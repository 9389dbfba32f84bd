"""Opening stores: who has the key, who has not, who was given one in vain; and a history that nobody can rewrite."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ckptfs.cache import high_water
from ckptfs.cache.high_water import HighWater, Mark
from ckptfs.crypto import sealing
from ckptfs.crypto.secret import KeySource, Secret
from ckptfs.errors import CorruptObjectError, InvalidInputError, KeyMissingError, RollbackError
from ckptfs.format.keys import FORMAT_KEY, LEASE_KEY, commit_key
from ckptfs.store.caching import CachingStore
from ckptfs.transfer.verify import verify
from ckptfs.versions.create import ensure_format, read_format
from ckptfs.versions.history import History, open_history
from ckptfs.versions.kept import through_kept
from ckptfs.versions.opening import Access
from ckptfs.versions.tags import delete_tag, set_tag
from ckptfs.versions.writer import Writer
from tests.versions.memory_store import Fault, MemoryStore, fail_next
from tests.versions.scene import FakeClock, acquire, holder, save


@pytest.fixture(autouse=True)
def stretch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is slow on purpose."""
    monkeypatch.setattr(sealing, "stretch", cache(sealing.stretch))


def key_of(text: bytes) -> KeySource:
    secret = Secret(text)
    return lambda: secret


KEY = key_of(b"a secret")
NEW = Access(key=KEY, encrypts=True)
OPEN = Access(key=KEY)


def acquire_encrypted(store: MemoryStore, access: Access = NEW, host: str = "gpu-07") -> Writer:
    time = FakeClock()
    return Writer.acquire(store, holder(host), takeover=True, access=access, clock=time.clock, sleep=time.sleep)


def encrypted(versions: int = 3) -> MemoryStore:
    store = MemoryStore()
    save(acquire_encrypted(store), versions)
    return store


def test_an_encrypted_store_is_read_and_written_with_its_key_alone() -> None:
    store = encrypted()
    history = open_history(store, OPEN)
    assert [record.version for record in history.versions()] == [3, 2, 1]
    assert b"step" in history.tree(history.resolve(2))
    writer = acquire_encrypted(store, OPEN, "gpu-08")
    assert save(writer).version == 4
    assert set_tag(history.store, "best", 2) == 2
    assert open_history(store, OPEN).resolve("best").version == 2
    assert delete_tag(history.store, "best") == 2


def test_nothing_but_format_json_can_be_read_without_it() -> None:
    store = encrypted()
    for key, body in store.objects.items():
        assert key == FORMAT_KEY or body.startswith(b"ckptfsE1")
        assert not any(word in body for word in (b"gpu-07", b"step", b"/cache/lock", b"boot-of", b"ckptfsC1"))


@pytest.mark.parametrize("access", [Access(), Access(key=key_of(b"another")), Access(key=key_of(b"a secret "))])
def test_without_the_key_nobody_reads_or_writes(access: Access) -> None:
    store = encrypted()
    before = dict(store.objects)
    with pytest.raises(KeyMissingError, match=r"no key was given|is not the key"):
        open_history(store, access)
    with pytest.raises(KeyMissingError):
        acquire_encrypted(store, access)
    assert store.objects == before


def test_a_key_is_never_given_in_vain() -> None:
    store = MemoryStore()
    with pytest.raises(InvalidInputError, match="would not be encrypted"):
        acquire_encrypted(store, OPEN)
    with pytest.raises(KeyMissingError, match="no key is given"):
        acquire_encrypted(store, Access(encrypts=True))
    assert store.objects == {}
    save(acquire(store))
    for access in (NEW, OPEN, Access(encrypts=True)):
        with pytest.raises(InvalidInputError, match="is not encrypted"):
            open_history(store, access)
        with pytest.raises(InvalidInputError, match="is not encrypted"):
            acquire_encrypted(store, access)


def test_a_plain_store_put_in_its_place_is_refused() -> None:
    store, other = encrypted(), MemoryStore()
    save(acquire(other))
    store.objects = dict(other.objects)
    with pytest.raises(InvalidInputError, match="is not encrypted"):
        acquire_encrypted(store, OPEN)


def test_an_encrypted_store_of_another_id_has_another_key() -> None:
    store, other = encrypted(), encrypted()
    store.objects = {**other.objects, FORMAT_KEY: store.objects[FORMAT_KEY]}
    with pytest.raises(CorruptObjectError, match="does not open"):
        open_history(store, OPEN).newest()


@pytest.mark.parametrize("fault", [Fault.REPLY_LOST, Fault.REPLY_LOST_AND_RETRIED, Fault.LATE])
def test_it_is_made_once_although_replies_are_lost(fault: Fault) -> None:
    store = MemoryStore()
    store.faults = fail_next("create", FORMAT_KEY, fault)
    made = ensure_format(store, FakeClock().retry(), NEW)
    while store.late:
        store.deliver()
    assert read_format(store) == made
    assert made.is_encrypted


def test_a_commit_whose_reply_was_lost_is_known_again_although_it_is_sealed_anew() -> None:
    store = MemoryStore()
    writer = acquire_encrypted(store)
    save(writer)
    store.faults = fail_next("create", "c/", Fault.REPLY_LOST, Fault.REPLY_LOST)
    assert save(writer).version == 2
    assert [record.version for record in open_history(store, OPEN).versions()] == [2, 1]


def test_the_chain_holds_whoever_wins_the_race_for_a_number() -> None:
    store = MemoryStore()
    writer = acquire_encrypted(store)
    save(writer)
    tagger = open_history(store, OPEN)
    tags = iter(f"tag-{number}" for number in range(3))

    def tag_first(operation: str, key: str) -> None:
        if operation == "create" and key == commit_key(writer.newest.seq + 1) and (name := next(tags, None)):
            set_tag(tagger.store, name, 1)

    for _ in range(3):
        # the tag gets the number that the save asks for, and the save the one after it
        store.before_request = tag_first
        save(writer)
        store.before_request = lambda operation, key: None
    history = open_history(store, OPEN)
    newest = history.newest()
    assert newest is not None
    assert (newest.version, len(history.tags())) == (4, 3)
    records = [history.record(seq) for seq in range(1, newest.seq + 1)]
    assert [record.previous for record in records[1:]] == [record.digest for record in records[:-1]]
    # the packs of these versions were never written; of records nothing is wrong
    assert [each for each in verify(open_history(store, OPEN), history.store) if each.version == 0] == []


def test_a_record_that_lost_its_race_cannot_take_the_place_of_the_one_that_won() -> None:
    store = encrypted(1)
    key = commit_key(3)
    before = dict(store.objects)
    save(acquire_encrypted(store, OPEN, "gpu-08"))
    loser = store.objects[key]
    store.objects = before
    save(acquire_encrypted(store, OPEN, "gpu-09"), 2)
    open_history(store, OPEN).newest()
    store.objects[key] = loser
    with pytest.raises(CorruptObjectError, match="another has taken its place"):
        list(open_history(store, OPEN).versions())
    findings = verify(open_history(store, OPEN), store)
    assert any("another has taken its place" in finding.fact for finding in findings)


def test_a_record_without_its_chain_is_none_of_an_encrypted_store() -> None:
    plain, store = MemoryStore(), encrypted(1)
    save(acquire(plain))
    history = open_history(store, OPEN)
    history.store.put(commit_key(1), plain.objects[commit_key(1)])
    with pytest.raises(CorruptObjectError, match="no `previous`"):
        open_history(store, OPEN).record(1)


def test_the_lease_names_who_writes_to_whoever_has_the_key() -> None:
    store = MemoryStore()
    writer = acquire_encrypted(store)
    writer.renew()
    assert b"gpu-07" not in store.objects[LEASE_KEY]
    assert b"gpu-07" in open_history(store, OPEN).store.get(LEASE_KEY)


# a store that is put back


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def is_encrypted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Machine:
    """One machine that has seen things."""

    def __init__(self, directory: Path, *, is_encrypted: bool) -> None:
        self.directory = directory
        self.key = KEY if is_encrypted else None
        self.store = MemoryStore()

    def access(self, *, forgets: bool = False, encrypts: bool = False) -> Access:
        return Access(key=self.key, encrypts=encrypts, high_water=HighWater(self.directory / "seen", forgets=forgets))

    def write(self, versions: int, *, host: str = "gpu-07", elsewhere: bool = False) -> None:
        access = self.access(encrypts=self.key is not None)
        save(acquire_encrypted(self.store, replace(access, high_water=None) if elsewhere else access, host), versions)

    def look(self, *, forgets: bool = False) -> History:
        """Open the store as another process of this machine does."""
        return open_history(self.store, self.access(forgets=forgets))


@pytest.fixture
def machine(tmp_path: Path, is_encrypted: bool) -> Machine:
    return Machine(tmp_path, is_encrypted=is_encrypted)


def newest_version(history: History) -> int:
    newest = history.newest()
    return newest.version if newest is not None else 0


def test_a_store_that_was_put_back_is_noticed_by_whoever_has_seen_more(machine: Machine) -> None:
    machine.write(2)
    older = dict(machine.store.objects)
    machine.write(1, elsewhere=True)
    assert newest_version(machine.look()) == 3
    machine.store.objects = older
    for _ in range(2):
        with pytest.raises(RollbackError, match="ends at commit 3, and this machine has seen commit 5"):
            machine.look().newest()
    with pytest.raises(RollbackError):
        machine.write(1)
    assert machine.store.objects == older


def test_it_is_taken_as_it_is_when_the_user_says_so_and_from_then_on(machine: Machine) -> None:
    machine.write(2)
    older = dict(machine.store.objects)
    machine.write(2)
    machine.store.objects = older
    assert newest_version(machine.look(forgets=True)) == 2
    assert newest_version(machine.look()) == 2
    machine.write(1)
    assert newest_version(machine.look()) == 3


def test_another_record_of_the_same_number_is_noticed(machine: Machine) -> None:
    machine.write(1)
    before = dict(machine.store.objects)
    machine.write(1)
    assert newest_version(machine.look()) == 2
    machine.store.objects = before
    machine.write(1, host="gpu-66", elsewhere=True)
    with pytest.raises(RollbackError, match="is another than this machine has seen"):
        machine.look().newest()


def test_a_store_that_was_put_back_and_has_grown_beyond_since_is_noticed(machine: Machine) -> None:
    machine.write(1)
    before = dict(machine.store.objects)
    machine.write(1)
    assert newest_version(machine.look()) == 2
    machine.store.objects = before
    machine.write(3, host="gpu-66", elsewhere=True)
    for _ in range(2):
        with pytest.raises(RollbackError, match=r"commit 4 of .* is another than this machine has seen"):
            machine.look().newest()
    assert newest_version(machine.look(forgets=True)) == 4
    assert newest_version(machine.look()) == 4


def test_what_is_kept_of_records_that_are_gone_is_never_taken_for_those_in_their_place(
    machine: Machine, tmp_path: Path
) -> None:
    machine.write(1)
    older = dict(machine.store.objects)
    machine.write(2)
    _, history = through_kept(machine.look(), tmp_path / "objects", check=True)
    assert [record.version for record in history.versions()] == [3, 2, 1]
    machine.store.objects = older
    assert newest_version(machine.look(forgets=True)) == 1
    machine.write(3, host="gpu-66")
    _, history = through_kept(machine.look(), tmp_path / "objects", check=True)
    assert {record.version: record.host for record in history.versions()} == {
        4: "gpu-66",
        3: "gpu-66",
        2: "gpu-66",
        1: "gpu-07",
    }


def test_a_kept_record_that_the_store_has_damaged_stays(machine: Machine, tmp_path: Path) -> None:
    machine.write(2)
    _, history = through_kept(machine.look(), tmp_path / "objects", check=True)
    newest = history.newest()
    assert newest is not None
    machine.store.objects[commit_key(newest.seq)] = b"damaged"
    _, history = through_kept(machine.look(), tmp_path / "objects", check=True)
    assert history.newest() == newest


def test_what_is_kept_of_the_store_does_not_hide_that_it_was_put_back(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    machine.write(1)
    older = dict(machine.store.objects)
    machine.write(1)
    history = machine.look().through(lambda store: CachingStore(store, tmp_path / "objects"))
    assert newest_version(history) == 2
    machine.store.objects = older
    with pytest.raises(RollbackError):
        history.newest()


def test_a_listing_that_lags_is_no_older_state(machine: Machine) -> None:
    machine.write(3)
    machine.store.list_lag = 2
    assert newest_version(machine.look()) == 3


def test_a_machine_that_has_seen_nothing_takes_what_it_sees(machine: Machine, tmp_path: Path) -> None:
    machine.write(2)
    older = dict(machine.store.objects)
    machine.write(1)
    machine.store.objects = older
    machine.directory = tmp_path / "another"
    assert newest_version(machine.look()) == 2


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 86, b"9" * 20 + b" " + b"x" * 64 + b"\n"])
def test_a_damaged_mark_is_none_and_is_written_anew(machine: Machine, content: bytes) -> None:
    machine.write(1)
    (mark,) = (machine.directory / "seen").iterdir()
    whole = mark.read_bytes()
    mark.write_bytes(content)
    assert newest_version(machine.look()) == 1
    assert mark.read_bytes()[: len(whole)] == whole


def test_where_no_mark_can_be_kept_nothing_fails(machine: Machine) -> None:
    (machine.directory / "seen").write_text("a file")
    machine.write(2)
    assert newest_version(machine.look()) == 2


@pytest.mark.parametrize("step", ["write_private", "sync_path", "rename"])
def test_a_mark_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Wherever writing one fails or ends: the one before is there."""
    store_id, before, after = "0" * 32, Mark(7, b"7" * 32), Mark(8, b"8" * 32)
    HighWater(tmp_path).rise(store_id, before)

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "rename", fails)
        else:
            patch.setattr(high_water, step, fails)
        HighWater(tmp_path).rise(store_id, after)
    assert HighWater(tmp_path).seen(store_id) == before
    HighWater(tmp_path).rise(store_id, after)
    assert HighWater(tmp_path).seen(store_id) == after
    assert [path.name for path in tmp_path.iterdir()] == [store_id]


def test_of_marks_that_many_threads_write_at_once_the_highest_stays(tmp_path: Path) -> None:
    def rise(first: int) -> None:
        mine = HighWater(tmp_path)
        for seq in range(first, 120, 6):
            mine.rise("0" * 32, Mark(seq, bytes([seq]) * 32))

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(rise, range(1, 7)))
    assert HighWater(tmp_path).seen("0" * 32) == Mark(119, bytes([119]) * 32)
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 32]


def test_a_mark_never_falls(tmp_path: Path) -> None:
    first, second = HighWater(tmp_path / "seen"), HighWater(tmp_path / "seen")
    assert first.seen("0" * 32).seq == second.seen("0" * 32).seq == 0
    first.rise("0" * 32, Mark(7, bytes(32)))
    second.rise("0" * 32, Mark(6, bytes(32)))
    assert HighWater(tmp_path / "seen").seen("0" * 32).seq == 7
