"""Reading history: what each question costs, and that damage is named and never skipped."""

from dataclasses import replace
from pathlib import Path

import pytest

from ckptfs.errors import CorruptObjectError, InvalidInputError, NoSuchVersionError, UnsupportedFormatError
from ckptfs.format.commit import CommitKind
from ckptfs.format.commit_bytes import decode_commit, encode_commit
from ckptfs.format.keys import commit_key
from ckptfs.hashing import hash_bytes
from ckptfs.store.caching import CachingStore
from ckptfs.versions.history import History
from ckptfs.versions.recent import RecentRecords
from ckptfs.versions.tags import set_tag
from tests.versions.memory_store import MemoryStore
from tests.versions.scene import Series, acquire, collect, draft, fresh, save


def store_with(versions: int) -> MemoryStore:
    store = MemoryStore()
    save(acquire(store), versions)
    return store


def costs(store: MemoryStore) -> tuple[int, int]:
    """Lists and gets since the last call."""
    lists, gets = store.count("list"), store.count("get")
    store.requests.clear()
    return lists, gets


@pytest.mark.parametrize("versions", [1, 10, 300])
def test_the_newest_version_costs_one_list_and_one_get_whatever_the_length_of_history(versions: int) -> None:
    history = fresh(store := store_with(versions))
    costs(store)
    newest = history.newest()
    assert newest is not None
    assert newest.version == versions
    assert history.tree(newest)[b"step"].size_bytes == len(str(versions))
    assert costs(store) == (1, 1)


@pytest.mark.parametrize("versions", [10, 300])
def test_listing_the_newest_few_reads_no_more_records_than_that(versions: int) -> None:
    history = fresh(store := store_with(versions))
    costs(store)
    assert [record.version for record in history.versions(3)] == [versions, versions - 1, versions - 2]
    assert costs(store) == (1, 3)


def test_a_limit_beyond_the_first_version_changes_nothing() -> None:
    history = fresh(store_with(4))
    assert list(history.versions(9)) == list(history.versions()) == list(history.versions(4))


def test_looking_again_when_nothing_is_new_costs_one_list() -> None:
    history = fresh(store := store_with(3))
    history.newest()
    costs(store)
    assert history.newest() is not None
    assert costs(store) == (1, 0)


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("place", [0, 9, 40, -1])
def test_a_record_that_is_bent_on_its_way_comes_right_the_second_time(
    monkeypatch: pytest.MonkeyPatch, place: int, bit: int
) -> None:
    history = fresh(store := store_with(3))
    get, asked = store.get, []

    def bent_once(key: str, *, most_bytes: int) -> bytes:
        body = bytearray(get(key, most_bytes=most_bytes))
        asked.append(key)
        if len(asked) == 1:
            body[place] ^= 1 << bit
        return bytes(body)

    monkeypatch.setattr(store, "get", bent_once)
    newest = history.newest()
    assert newest is not None
    assert newest.version == 3
    assert asked == [commit_key(newest.seq)] * 2


def test_an_object_that_is_damaged_in_what_is_kept_on_local_disk_is_fetched_again(tmp_path: Path) -> None:
    store = store_with(3)
    whole = History(CachingStore(store, tmp_path), "id").newest()
    assert whole is not None
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert History(CachingStore(store, tmp_path), "id").newest() == whole
    # and is whole there again
    costs(store)
    assert History(CachingStore(store, tmp_path), "id").newest() == whole
    assert costs(store) == (1, 0)


@pytest.mark.parametrize("number", [1, 2, 137, 299])
def test_a_version_is_found_in_a_logarithmic_number_of_reads(number: int) -> None:
    history = fresh(store := store_with(300))
    costs(store)
    assert history.resolve(number).version == number
    lists, gets = costs(store)
    assert lists == 1
    assert gets <= 1 + 9 + 1  # newest, log2(301), the version's own


def test_every_version_is_found_between_fences_tags_and_gaps() -> None:
    store = MemoryStore()
    writer = acquire(store)
    committed = []
    for number in range(1, 60):
        if number % 7 == 0:
            writer = acquire(store, takeover=True)
        if number % 10 == 0:
            continue  # never committed
        base = writer.newest.version
        committed.append(writer.commit_save(replace(draft(number), base=base)).version)
        for tag in range(number % 4):
            set_tag(store, f"tag-{tag}", "latest")
    history = fresh(store)
    assert [history.resolve(number).version for number in committed] == committed
    assert history.numbers() == committed
    assert [record.version for record in history.versions()] == committed[::-1]
    assert [record.version for record in history.versions(20)] == committed[:-21:-1]
    for gap in (10, 20, 30, 40, 50):
        with pytest.raises(NoSuchVersionError, match="never committed"):
            history.resolve(gap)


def test_a_version_is_named_by_number_tag_or_latest() -> None:
    store = store_with(5)
    set_tag(store, "best", 3)
    history = fresh(store)
    assert [history.resolve(spec).version for spec in (2, "2", "002", "best", "latest")] == [2, 2, 2, 3, 5]


@pytest.mark.parametrize("spec", [0, -1, 6, 10**30, "0", "6", "9" * 19, "best"])
def test_a_version_that_does_not_exist_is_said_not_to(spec: str | int) -> None:
    with pytest.raises(NoSuchVersionError):
        fresh(store_with(5)).resolve(spec)


@pytest.mark.parametrize("spec", ["", "-1", "a/b", "..", " 5", "9" * 5000, "\u0663", "x" * 101])
def test_what_can_be_no_version_is_invalid(spec: str) -> None:
    with pytest.raises(InvalidInputError):
        fresh(store_with(5)).resolve(spec)


def test_a_store_without_versions_answers_every_question() -> None:
    fenced_once = MemoryStore()
    assert acquire(fenced_once).head is None
    for history in (fresh(fenced_once), History(MemoryStore(), "0" * 32)):
        assert history.head() is None
        assert history.numbers() == []
        assert history.tags() == {}
        assert list(history.versions()) == []
        for spec in ("latest", 1):
            with pytest.raises(NoSuchVersionError):
                history.resolve(spec)


def test_dropped_versions_are_in_no_list_and_cannot_be_resolved() -> None:
    store = store_with(9)
    collect(store, dropped=[(2, 4), (7, 7)])
    history = fresh(store)
    assert history.numbers() == [1, 5, 6, 8, 9]
    assert [record.version for record in history.versions()] == [9, 8, 6, 5, 1]
    with pytest.raises(NoSuchVersionError, match="pruned"):
        history.resolve(3)


def test_a_long_run_of_dropped_versions_is_jumped_over() -> None:
    store = store_with(1200)
    collect(store, dropped=[(3, 1195)])
    history = fresh(store)
    costs(store)
    assert [record.version for record in history.versions()] == [1200, 1199, 1198, 1197, 1196, 2, 1]
    assert costs(store)[1] < 100


def test_a_long_run_of_fences_is_jumped_over() -> None:
    store = store_with(2)
    for _ in range(400):
        acquire(store, takeover=True)
    save(acquire(store, takeover=True))
    history = fresh(store)
    costs(store)
    assert [record.version for record in history.versions()] == [3, 2, 1]
    assert costs(store)[1] < 100


def test_listing_reads_a_bounded_number_of_records_ahead() -> None:
    history = fresh(store := store_with(300))
    costs(store)
    assert next(history.versions()).version == 300
    assert costs(store)[1] <= 40


def test_a_damaged_record_is_named_by_every_question_that_needs_it() -> None:
    store = store_with(5)
    key = commit_key(4)
    body = store.objects[key]
    store.objects[key] = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(CorruptObjectError, match=key):
        fresh(store).record(4)
    with pytest.raises(CorruptObjectError, match=key):
        list(fresh(store).versions())
    with pytest.raises(CorruptObjectError, match=key):
        fresh(store).resolve(3)


def test_a_damaged_newest_record_is_not_passed_over_for_the_one_before() -> None:
    store = store_with(2)
    store.objects[commit_key(3)] = b""
    with pytest.raises(CorruptObjectError, match=commit_key(3)):
        fresh(store).newest()


def test_a_missing_record_is_damage() -> None:
    store = store_with(5)
    del store.objects[commit_key(4)]
    with pytest.raises(CorruptObjectError, match=f"{commit_key(4)}.*missing"):
        list(fresh(store).versions())


def test_a_record_under_another_records_key_is_damage() -> None:
    store = store_with(5)
    store.objects[commit_key(4)] = store.objects[commit_key(3)]
    with pytest.raises(CorruptObjectError, match=commit_key(4)):
        fresh(store).record(4)


def test_records_that_contradict_each_other_are_damage() -> None:
    store = store_with(5)
    record, inline = decode_commit(store.objects[commit_key(4)], seq=4)
    store.objects[commit_key(4)] = encode_commit(replace(record, version=9, gaps=((3, 8),)), inline)
    with pytest.raises(CorruptObjectError, match="C3"):
        list(fresh(store).versions())
    with pytest.raises(CorruptObjectError, match="C3"):
        fresh(store).resolve(3)


def test_a_record_that_is_not_what_others_point_to_is_damage() -> None:
    store = store_with(3)
    set_tag(store, "best", 1)
    collect(store, dropped=[(1, 1)])
    save(acquire(store, takeover=True))
    for seq, question in {4: History.head, 5: History.tags, 6: History.dropped}.items():
        history = fresh(store)
        newest = history.newest()
        assert newest is not None
        pointing = replace(newest, kind=CommitKind.FENCE, version=3, head=4)
        assert question(history, newest=pointing)
        other = replace(history.record(2), seq=seq)
        history = fresh(store)
        history.remember(replace(other, kind=CommitKind.FENCE), b"")
        with pytest.raises(CorruptObjectError, match=commit_key(seq)):
            question(history, newest=pointing)


def test_a_strange_key_among_the_commit_records_is_damage() -> None:
    store = store_with(1)
    store.objects["c/0"] = b""
    with pytest.raises(CorruptObjectError, match="c/0"):
        fresh(store).newest()


def test_a_record_of_a_newer_format_says_which_object_it_is() -> None:
    store = store_with(1)
    data = bytearray(store.objects[commit_key(2)][:-32])
    data[8] = 2
    store.objects[commit_key(2)] = bytes(data) + hash_bytes(bytes(data))
    with pytest.raises(UnsupportedFormatError, match=commit_key(2)):
        fresh(store).newest()


def test_records_in_memory_are_bounded() -> None:
    store = store_with(20)
    records = [fresh(store).record(seq) for seq in range(1, 22)]
    recent = RecentRecords(limit_bytes=30_000)
    for record in records:
        recent.add(record, bytes(4000))
    held = [record.seq for record in records if recent.get(record.seq)]
    assert held == [18, 19, 20, 21]


def test_a_version_that_was_pruned_while_it_was_read_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfs.versions.parts.MAX_INLINE_BYTES", 0)
    store = MemoryStore()
    made = Series(acquire(store))
    for _ in range(2):
        made.save("a")
    reader = fresh(store)
    record = reader.version(1)
    (segment,) = (part.key for part in record.parts)
    del store.objects[segment]
    with pytest.raises(CorruptObjectError, match=segment):
        reader.tree(record)
    collect(store, dropped=[(1, 1)], condemned=[segment])
    with pytest.raises(NoSuchVersionError, match=r"version 1 .* was pruned while it was read"):
        reader.tree(record)
