"""The manifest of a version: which parts are kept, which are written, and that reading gives the same tree back."""

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.codec.zstd import compress
from ckptfs.errors import CorruptObjectError
from ckptfs.format.commit import CommitRecord, PartRef
from ckptfs.format.keys import commit_key, new_segment_key
from ckptfs.format.manifest import Entry, Part, Tree, merge
from ckptfs.format.part import encode_part
from ckptfs.hashing import hash_bytes
from ckptfs.versions.parts import MAX_INLINE_BYTES, MAX_SEGMENT_BYTES, plan_parts
from tests.versions.memory_store import MemoryStore
from tests.versions.scene import acquire, directory, draft, file, fresh, part, tree_of


class Series:
    """A store whose versions are made one after another from changes."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.writer = acquire(self.store)
        self.tree: Tree = {}
        self.wholes = 0

    def save(self, change: Part) -> CommitRecord:
        self.tree = merge([Part(tuple(self.tree.values())), change])
        parts, inline = plan_parts(self.writer.head, change, self._whole, self._put_segment)
        made = draft(self.writer.newest.version + 1)
        return self.writer.commit_save(replace(made, parts=parts, inline=inline))

    def read(self, record: CommitRecord) -> Tree:
        return fresh(self.store).tree(record)

    def _whole(self) -> Tree:
        self.wholes += 1
        return self.tree

    def _put_segment(self, stored: bytes) -> str:
        key = new_segment_key(1)
        self.store.create(key, stored)
        return key


def many(count: int, *, tag: str = "", random_bytes: int = 64) -> list[Entry]:
    """Files with random xattrs, so that an entry stores in about half of its raw size, which is twice random_bytes."""
    files = [file(f"{tag}{number:06d}", os.urandom(16)) for number in range(count)]
    return [replace(each, xattrs=((b"user.x", os.urandom(random_bytes).hex().encode()),)) for each in files]


_DEEP = ["x" * 249] * 16
DEEP_DIRECTORIES = [directory("/".join(_DEEP[:depth])) for depth in range(1, 17)]
DEEP = "/".join(_DEEP)
"""Of 4 KB."""


def test_the_first_version_is_one_inline_part() -> None:
    series = Series()
    record = series.save(part(directory(), file("a")))
    assert [(ref.at, ref.entries, ref.tombstones) for ref in record.parts] == [("inline", 2, 0)]
    assert series.read(record) == series.tree


def test_a_save_without_a_change_points_to_the_parts_it_has() -> None:
    series = Series()
    first = series.save(part(directory(), file("a")))
    second = series.save(part())
    third = series.save(part())
    assert [(ref.at, ref.seq) for ref in second.parts] == [("commit", first.seq)]
    assert third.parts == second.parts
    assert series.wholes == 1
    assert series.read(third) == series.tree


def test_a_small_tree_is_written_whole_each_time() -> None:
    series = Series()
    series.save(part(directory(), file("a")))
    record = series.save(part(file("b"), removed=["a"]))
    assert [(ref.at, ref.entries) for ref in record.parts] == [("inline", 2)]
    assert series.read(record).keys() == {b"", b"b"}


def test_a_small_change_of_a_larger_tree_adds_one_part() -> None:
    series = Series()
    first = series.save(part(directory(), *many(1000)))
    second = series.save(part(file("b"), removed=[min(series.tree.keys() - {b""}).decode()]))
    assert [(ref.at, ref.seq, ref.tombstones) for ref in second.parts] == [("commit", first.seq, 0), ("inline", 0, 1)]
    assert series.wholes == 1
    assert series.read(second) == series.tree


def test_after_four_parts_the_whole_tree_is_written_anew() -> None:
    series = Series()
    series.save(part(directory(), *many(1000)))
    counts = [len(series.save(part(file(f"change-{number}"))).parts) for number in range(8)]
    assert counts == [2, 3, 4, 1, 2, 3, 4, 1]


def test_changes_larger_than_the_tree_below_them_are_not_stacked() -> None:
    series = Series()
    series.save(part(directory(), *many(300)))
    assert len(series.save(part(*many(290, tag="x"))).parts) == 2
    assert len(series.save(part(*many(20, tag="y"))).parts) == 1


def test_a_manifest_above_the_inline_limit_goes_into_segments_of_bounded_size() -> None:
    series = Series()
    record = series.save(part(directory(), *many(5000, random_bytes=1000)))
    assert {ref.at for ref in record.parts} == {"segment"}
    assert all(0.9 * MAX_SEGMENT_BYTES < ref.raw_bytes <= MAX_SEGMENT_BYTES for ref in record.parts[:-1])
    assert len(record.parts) == 2
    assert len(series.store.objects[commit_key(record.seq)]) < 2000
    assert series.read(record) == series.tree
    again = series.save(part(file("b")))
    assert [ref.at for ref in again.parts] == [*["segment"] * len(record.parts), "inline"]
    assert series.read(again) == series.tree


def test_a_large_part_that_compresses_to_less_than_the_limit_stays_inline() -> None:
    tree = tree_of(directory(), *DEEP_DIRECTORIES, *[file(f"{DEEP}/{number:06d}") for number in range(3000)])
    parts, inline = plan_parts(None, part(), lambda: tree, lambda _: "no segment is needed")
    assert {ref.at for ref in parts} == {"inline"}
    assert len(parts) == 2
    assert len(inline) == sum(ref.stored_bytes for ref in parts) <= MAX_INLINE_BYTES
    assert [ref.offset for ref in parts] == [0, parts[0].stored_bytes]


def test_many_tombstones_are_cut_too() -> None:
    series = Series()
    names = [f"{DEEP}/{number:06d}" for number in range(4500)]
    series.save(part(directory(), *DEEP_DIRECTORIES, *[file(name) for name in names]))
    record = series.save(part(removed=names[:2500]))
    assert [(ref.entries, ref.raw_bytes <= MAX_SEGMENT_BYTES) for ref in record.parts[-2:]] == [(0, True), (0, True)]
    assert sum(ref.tombstones for ref in record.parts) == 2500
    assert series.read(record) == series.tree
    assert len(series.tree) == 2017


def test_a_change_that_leaves_no_tree_is_refused_before_it_is_written() -> None:
    series = Series()
    with pytest.raises(CorruptObjectError, match="a/b"):
        series.save(part(directory(), file("a/b")))
    assert fresh(series.store).head() is None


names = st.sampled_from([f"{letter}{number}" for letter in "abc" for number in range(4)])
changes = st.lists(st.tuples(st.sets(names, max_size=4), st.sets(names, max_size=3)), min_size=1, max_size=14)


@settings(max_examples=25, deadline=None)
@given(changes, st.randoms(use_true_random=False))
def test_every_version_of_any_series_of_changes_reads_back_as_it_was(
    series_of_changes: list[tuple[set[str], set[str]]], random: object
) -> None:
    series = Series()
    filler = [file(f"filler-{number:04d}", b"%d" % number) for number in range(600)]
    expected = [(series.save(part(directory(), *filler)), series.tree)]
    for number, (written, removed) in enumerate(series_of_changes):
        change = part(*[file(name, b"%d" % number) for name in written], removed=sorted(removed - written))
        expected.append((series.save(change), series.tree))
    for record, tree in expected:
        assert series.read(record) == tree


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
@pytest.mark.parametrize("place", ["inline", "commit", "segment"])
def test_a_damaged_part_is_an_error_that_names_its_object(place: str, damage: str) -> None:
    series = Series()
    record = series.save(part(directory(), *many(1000, random_bytes=1000 if place == "segment" else 64)))
    if place == "commit":
        record = series.save(part(file("b")))
    assert record.parts[0].at == place
    key = record.parts[0].key or commit_key(record.parts[0].seq or record.seq)
    body = series.store.objects.pop(key)
    if damage == "flipped":
        series.store.objects[key] = body[:2000] + bytes([body[2000] ^ 1]) + body[2001:]
    elif damage == "short":
        series.store.objects[key] = body[:2000]
    with pytest.raises(CorruptObjectError, match=key):
        series.read(record)


@pytest.mark.parametrize(
    "lie", [{"raw_bytes": 10}, {"raw_bytes": 1 << 29}, {"entries": 3}, {"tombstones": 1}, {"digest": bytes(32)}]
)
def test_a_segment_that_is_not_as_described_is_refused(lie: dict[str, int | bytes]) -> None:
    series = Series()
    raw = encode_part(part(directory(), file("a")))
    stored = compress(raw)
    series.store.put(key := new_segment_key(1), stored)
    series.store.put(first_key := new_segment_key(1), stored)
    true = PartRef("segment", 0, len(stored), len(raw), 2, 0, hash_bytes(stored), key=key)
    first = replace(true, key=first_key)
    good = series.writer.commit_save(replace(draft(1), parts=(true,), inline=b""))
    assert len(series.read(good)) == 2
    lying = series.writer.commit_save(replace(draft(2), parts=(first, replace(true, **lie)), inline=b""))  # type: ignore[arg-type]
    with pytest.raises(CorruptObjectError, match=key):
        series.read(lying)


def test_a_part_that_expands_beyond_what_it_says_is_not_expanded() -> None:
    series = Series()
    bomb = compress(bytes(64 << 20))
    series.store.put(key := new_segment_key(1), bomb)
    ref = PartRef("segment", 0, len(bomb), 1000, 1, 0, hash_bytes(bomb), key=key)
    record = series.writer.commit_save(replace(draft(1), parts=(ref,), inline=b""))
    with pytest.raises(CorruptObjectError, match=key):
        series.read(record)


def test_parts_that_make_no_tree_are_refused_when_read() -> None:
    series = Series()
    raw = encode_part(part(directory(), file("a/b")))
    stored = compress(raw)
    ref = PartRef("inline", 0, len(stored), len(raw), 2, 0, hash_bytes(stored))
    record = series.writer.commit_save(replace(draft(1), parts=(ref,), inline=stored))
    with pytest.raises(CorruptObjectError, match=commit_key(record.seq)):
        series.read(record)


def test_the_parts_of_a_version_are_read_with_one_request_each() -> None:
    series = Series()
    series.save(part(directory(), *many(1000)))
    series.save(part(file("b")))
    record = series.save(part(file("c")))
    history = fresh(series.store)
    newest = history.newest()
    series.store.requests.clear()
    assert history.tree(record) == series.tree
    assert newest == record
    assert series.store.count("get") == len(record.parts) - 1 == 2
