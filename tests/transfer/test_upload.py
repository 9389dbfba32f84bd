"""Uploading: what is stored, what is not stored again, and what happens when something goes wrong."""

import os
import time
from pathlib import Path

import pytest

from ckptfs.errors import CondemnedError, DivergedError, FencedError, RollbackError, StoreUnavailableError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Chunk, Entry, Hole, Kind, LocalData, ParentFile, Part, Tree
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.data_file import PendingDataError
from ckptfs.transfer.fetch import Fetcher
from ckptfs.transfer.verify import verify
from tests.transfer.conftest import Bench
from tests.transfer.trees import acquire, capture, directory, write_part
from tests.versions.memory_store import Fault, fail_next
from tests.versions.scene import collect

MIB = 1 << 20


def tree(bench: Bench, record: CommitRecord) -> Tree:
    return bench.history().tree(record)


def read(bench: Bench, record: CommitRecord, path: bytes) -> bytes:
    return Fetcher(bench.store).read_file(tree(bench, record)[path])


def chunks(entry: Entry) -> list[Chunk]:
    return [extent for extent in entry.extents if isinstance(extent, Chunk)]


def test_a_version_holds_what_was_captured_and_its_record_says_how_much(bench: Bench) -> None:
    (bench.source / "f").write_bytes(b"abc" * 100)
    (bench.source / "g").write_bytes(os.urandom(5 * MIB))
    record = bench.save()
    assert read(bench, record, b"f") == b"abc" * 100
    assert read(bench, record, b"g") == (bench.source / "g").read_bytes()
    assert (record.version, record.files, record.bytes) == (1, 2, 300 + 5 * MIB)
    assert record.bytes_added == sum(len(bench.store.objects[key]) for key in bench.packs())


def test_a_file_is_cut_into_chunks_of_4_mib(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(2 * CHUNK_BYTES + 1))
    record = bench.save()
    assert [chunk.size_bytes for chunk in chunks(tree(bench, record)[b"f"])] == [CHUNK_BYTES, CHUNK_BYTES, 1]


def test_an_unchanged_version_costs_one_small_object(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    bench.save()
    bench.store.requests.clear()
    pending = write_part(bench.pending, 2, Part())
    record = bench.uploader.upload(pending)
    assert [operation for operation, _ in bench.store.requests] == ["create"]
    assert record.bytes_added == 0
    (key,) = [key for _, key in bench.store.requests]
    assert len(bench.store.objects[key]) < 10_000
    assert tree(bench, record) == tree(bench, bench.history().resolve(1))


def test_200_small_files_and_20_mb_take_few_requests(bench: Bench) -> None:
    for number in range(200):
        (bench.source / f"small-{number:03}").write_bytes(os.urandom(4000))
    (bench.source / "weights").write_bytes(os.urandom(20_000_000))
    bench.save()
    puts = [key for operation, key in bench.store.requests if operation == "put" and key != "lease"]
    # and the commit record
    assert len(puts) <= 3
    bench.store.requests.clear()
    for number in range(200):
        (bench.source / f"small-{number:03}").write_bytes(os.urandom(4000))
    (bench.source / "weights").write_bytes(os.urandom(20_000_000))
    bench.save()
    assert len(bench.store.requests) <= 6
    bench.store.requests.clear()
    (bench.source / "small-000").write_bytes(os.urandom(4000))
    bench.save()
    assert sorted(operation for operation, _ in bench.store.requests) == ["create", "put"]


def test_identical_content_is_uploaded_once(bench: Bench) -> None:
    content = os.urandom(6 * MIB)
    for name in ("a", "b", "c"):
        (bench.source / name).write_bytes(content)
    record = bench.save()
    assert 6 * MIB <= record.bytes_added < 7 * MIB
    entries = tree(bench, record)
    assert entries[b"a"].extents == entries[b"b"].extents == entries[b"c"].extents


def test_content_that_the_version_before_has_is_not_uploaded_again(bench: Bench) -> None:
    content = os.urandom(9 * MIB)
    (bench.source / "f").write_bytes(content)
    first = bench.save()
    (bench.source / "renamed").write_bytes(content)
    (bench.source / "f").write_bytes(content[: 5 * MIB] + b"x" + content[5 * MIB + 1 :])
    second = bench.save()
    assert read(bench, second, b"renamed") == content
    # one chunk holds the changed byte, and is stored against the one that it was
    assert 0 < second.bytes_added < 10_000
    before, after = chunks(tree(bench, first)[b"f"]), chunks(tree(bench, second)[b"f"])
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_copy_of_a_file_that_grew_is_not_uploaded_again_whatever_its_name(bench: Bench) -> None:
    content = b""
    for _ in range(3):
        content += os.urandom(700_000)
        (bench.source / "log").write_bytes(content)
        bench.save()
    for before in (b"", b"seven b"):
        # what is inserted at the beginning is a chunk of its own
        content = before + content
        (bench.source / "log").write_bytes(content)
        bench.save()
        (bench.source / f"copy{before!r}").write_bytes(content)
        assert bench.save().bytes_added < 5_000
    (bench.source / "other").write_bytes(content[::-1] + b"longer")
    bench.save()
    (bench.source / "other").write_bytes(content)
    assert bench.save().bytes_added < 5_000, "a copy takes the place of another file"
    content += os.urandom(100_000)
    # both grow by the same, one under its name and one under a new one
    (bench.source / "log").write_bytes(content)
    (bench.source / "another").write_bytes(content)
    record = bench.save()
    assert record.bytes_added < 110_000
    entries = tree(bench, record)
    assert entries[b"another"].extents == entries[b"log"].extents
    assert read(bench, record, b"another") == content


def test_content_that_only_an_older_version_has_is_uploaded_again(bench: Bench) -> None:
    content = os.urandom(MIB)
    (bench.source / "f").write_bytes(content)
    first = bench.save()
    (bench.source / "f").write_bytes(b"other")
    bench.save()
    (bench.source / "f").write_bytes(content)
    third = bench.save()
    assert third.bytes_added >= MIB
    assert not set(chunks(tree(bench, first)[b"f"])) & set(chunks(tree(bench, third)[b"f"]))


def test_content_that_shrinks_is_compressed(bench: Bench) -> None:
    (bench.source / "f").write_bytes(b"all the same " * MIB)
    assert bench.save().bytes_added < MIB


def test_hard_links_share_one_content(bench: Bench) -> None:
    (bench.source / "a").write_bytes(os.urandom(MIB))
    os.link(bench.source / "a", bench.source / "b")
    record = bench.save()
    entries = tree(bench, record)
    assert entries[b"a"].extents == entries[b"b"].extents
    assert entries[b"a"].link_id == entries[b"b"].link_id != 0
    assert record.bytes_added < 2 * MIB
    assert bench.progress[-1] == (MIB, MIB)


@pytest.mark.parametrize("put_s", [0.0, 0.3])
def test_packs_have_8_to_32_mib_by_how_busy_the_store_is_in_the_order_of_the_paths(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, put_s: float
) -> None:
    put = bench.store.put

    def slow_put(key: str, body: bytes) -> None:
        time.sleep(put_s)
        put(key, body)

    monkeypatch.setattr(bench.store, "put", slow_put)
    for name in "abcdefgh":
        (bench.source / name).write_bytes(os.urandom(9 * MIB))
    entries = tree(bench, bench.save())
    packs = [chunk.pack for _, entry in sorted(entries.items()) for chunk in chunks(entry)]
    in_order = [pack for pack, following in zip(packs, [*packs[1:], ""], strict=True) if pack != following]
    assert sorted(in_order) == bench.packs()
    sizes = [len(bench.store.objects[key]) for key in in_order]
    assert sum(sizes) > 72 * MIB
    assert min(sizes[:-1]) >= 8 * MIB
    assert max(sizes) <= 32 * MIB + 10_000
    # nothing is on its way when the first one has enough; how long a quick put takes is up to the machine
    assert sizes[0] < 24 * MIB
    assert max(sizes) > 24 * MIB or not put_s


def test_progress_ends_with_all_bytes_and_never_falls(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(40 * MIB))
    with (bench.source / "sparse").open("wb") as file:
        file.truncate(10 * MIB)
    (bench.source / "copy").write_bytes((bench.source / "f").read_bytes())
    bench.save()
    assert bench.progress[0] == (0, 90 * MIB)
    assert bench.progress[-1] == (90 * MIB, 90 * MIB)
    assert bench.progress == sorted(bench.progress)


def test_a_reference_to_the_version_before_is_resolved_even_under_another_name(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    first = bench.save()
    moved = Entry(path=b"moved", kind=Kind.FILE, mode=0o600, size_bytes=MIB, extents=(ParentFile(MIB, b"f"),))
    record = bench.uploader.upload(write_part(bench.pending, 2, Part((moved,), (b"f",))))
    assert record.bytes_added == 0
    assert tree(bench, record).keys() == {b"", b"moved"}
    assert tree(bench, record)[b"moved"].extents == tree(bench, first)[b"f"].extents


@pytest.mark.parametrize(("path", "size"), [(b"f", MIB + 1), (b"g", MIB), (b"d", 5)])
def test_a_reference_that_does_not_fit_the_version_before_fails_for_good(bench: Bench, path: bytes, size: int) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    (bench.source / "d").mkdir()
    bench.save()
    entry = Entry(path=b"new", kind=Kind.FILE, mode=0o600, size_bytes=size, extents=(ParentFile(size, path),))
    with pytest.raises(PendingDataError, match="in the version before"):
        bench.uploader.upload(write_part(bench.pending, 2, Part((entry,))))
    assert bench.history().numbers() == [1]


def test_changes_that_make_no_tree_of_the_version_before_fail_for_good(bench: Bench) -> None:
    bench.save()
    lost = Entry(path=b"gone/f", kind=Kind.FILE, mode=0o600)
    with pytest.raises(PendingDataError, match="do not fit the version before"):
        bench.uploader.upload(write_part(bench.pending, 2, Part((lost,))))
    assert bench.history().numbers() == [1]


def test_stored_chunks_of_an_older_version_are_taken_over_from_the_pending_manifest(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    old = tree(bench, bench.save())[b"f"]
    (bench.source / "f").unlink()
    bench.save(b"f")
    record = bench.uploader.upload(write_part(bench.pending, 3, Part((old,))))
    assert record.bytes_added == 0
    assert read(bench, record, b"f") == read(bench, bench.history().resolve(1), b"f")


def test_a_pending_version_whose_own_chunks_were_pruned_fails_for_good(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    old = tree(bench, bench.save())[b"f"]
    (bench.source / "f").unlink()
    bench.save(b"f")
    collect(bench.store, condemned=[chunk.pack for chunk in chunks(old)])
    pending = write_part(bench.pending, 3, Part((old,)))
    with pytest.raises(CondemnedError):
        bench.uploader.upload(pending)
    with pytest.raises(PendingDataError, match="pruned"):
        bench.uploader.upload(pending)


def test_a_damaged_local_manifest_fails_for_good(bench: Bench) -> None:
    def damage(pending: Path) -> None:
        (pending / "manifest").write_bytes(b"not a manifest")

    with pytest.raises(PendingDataError, match="manifest of pending version 1"):
        bench.save(change=damage)


def test_lost_local_data_fail_for_good_and_commit_nothing(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    with pytest.raises(PendingDataError, match="data/0 cannot be read"):
        bench.save(change=lambda pending: (pending / "data" / "0").unlink())
    assert bench.history().numbers() == []


def test_a_file_replaced_by_a_private_copy_during_the_upload_is_uploaded_as_captured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = os.urandom(5 * CHUNK_BYTES + 100)
    live = bench.source / "f"
    live.write_bytes(captured)
    pending = capture(bench.source, bench.pending, 1)
    data = pending.data_path(0)
    real = os.preadv
    reads: list[int] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        if len(reads) == 3:
            data.with_name("0.copy").write_bytes(captured)
            data.with_name("0.copy").rename(data)
            with live.open("r+b") as file:
                file.write(b"x" * len(captured))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    record = bench.uploader.upload(pending)
    monkeypatch.undo()
    assert read(bench, record, b"f") == captured
    assert live.read_bytes() != captured


def test_a_put_that_fails_once_is_sent_again_without_reading_anything_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.source / "f").write_bytes(os.urandom(20 * MIB))
    bench.store.faults = fail_next("put", "p/", Fault.BEFORE)
    reads: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    record = bench.save()
    assert len(reads) == 5
    assert read(bench, record, b"f") == (bench.source / "f").read_bytes()
    assert sum(len(bench.store.objects[key]) for key in bench.packs()) < 21 * MIB


def test_a_store_that_goes_away_costs_only_the_packs_that_were_on_their_way(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(100 * MIB))
    bench.version = 1
    pending = capture(bench.source, bench.pending, 1)
    gone: list[str] = []

    def faults(operation: str, key: str) -> Fault:
        if operation == "put" and key.startswith("p/") and (gone or len(bench.packs()) == 2):
            gone.append(key)
            return Fault.BEFORE
        return Fault.NONE

    bench.store.faults = faults
    with pytest.raises(StoreUnavailableError):
        bench.uploader.upload(pending)
    stored = bench.packs()
    assert len(stored) >= 2
    bench.store.faults = lambda operation, key: Fault.NONE
    record = bench.uploader.upload(pending)
    # nothing that was stored is stored again, and all of it counts
    assert set(stored) <= {chunk.pack for chunk in chunks(tree(bench, record)[b"f"])}
    assert sum(len(bench.store.objects[key]) for key in bench.packs()) < 101 * MIB
    assert record.bytes_added == sum(len(bench.store.objects[key]) for key in bench.packs())
    assert read(bench, record, b"f") == (bench.source / "f").read_bytes()


def test_while_the_store_is_away_the_data_are_not_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.save()
    (bench.source / "f").write_bytes(os.urandom(MIB))
    pending = capture(bench.source, bench.pending, 2)
    bench.store.faults = lambda operation, key: Fault.BEFORE
    with pytest.raises(StoreUnavailableError):
        bench.uploader.upload(pending)
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("the data were read again"))
    with pytest.raises(StoreUnavailableError):
        bench.uploader.upload(pending)
    monkeypatch.undo()
    bench.store.faults = lambda operation, key: Fault.NONE
    assert bench.uploader.upload(pending).version == 2


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.REPLY_LOST])
def test_a_commit_of_unknown_outcome_is_finished_by_the_next_attempt(
    bench: Bench, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    pending = capture(bench.source, bench.pending, 1)
    bench.writer = acquire(bench.store, retry_budget_s=0.0)
    bench.uploader = bench.new_uploader()
    bench.store.faults = lambda operation, key: fault if operation == "create" else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        bench.uploader.upload(pending)
    bench.store.faults = lambda operation, key: Fault.NONE
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("the data were read again"))
    record = bench.uploader.upload(pending)
    assert (record.version, record.commit_id) == (1, pending.header.commit_id)
    assert bench.history().numbers() == [1]
    assert len(bench.packs()) == 1
    # the uploader has read of it, and the writer learns of it
    monkeypatch.undo()
    collect(bench.store)
    assert bench.uploader.upload(capture(bench.source, bench.pending, 2)).version == 2


def test_a_version_that_a_killed_process_had_committed_is_not_committed_again(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    pending = capture(bench.source, bench.pending, 1)
    record = bench.uploader.upload(pending)
    requests = len(bench.store.requests)
    again = bench.new_uploader().upload(pending)
    assert again == record
    assert not [row for row in bench.store.requests[requests:] if row[0] in ("put", "create")]


def test_a_version_that_does_not_follow_the_newest_is_refused_before_its_data_are_put(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(MIB))
    pending = capture(bench.source, bench.pending, 2)
    with pytest.raises(DivergedError, match="version 2 cannot follow version 0"):
        bench.uploader.upload(pending)
    assert bench.packs() == []


def test_a_number_that_history_gave_to_another_save_is_refused(bench: Bench) -> None:
    bench.save()
    with pytest.raises(DivergedError):
        bench.uploader.upload(capture(bench.source, bench.source.parent / "other-pending", 1))


def test_a_fenced_writer_commits_nothing(bench: Bench) -> None:
    bench.save()
    acquire(bench.store)
    (bench.source / "f").write_bytes(b"x")
    with pytest.raises(FencedError):
        bench.save()
    assert bench.history().numbers() == [1]


def test_torn_entries_of_the_whole_version_are_counted(bench: Bench) -> None:
    torn = Entry(path=b"t", kind=Kind.FILE, mode=0o600, torn=True)
    first = bench.uploader.upload(write_part(bench.pending, 1, Part((directory(), torn))))
    second = bench.uploader.upload(write_part(bench.pending, 2, Part((directory(b"d"),))))
    assert (first.torn, second.torn) == (1, 1)


def test_a_file_that_is_all_holes_needs_no_pack(bench: Bench) -> None:
    with (bench.source / "f").open("wb") as file:
        file.truncate(1 << 40)
    record = bench.save()
    assert tree(bench, record)[b"f"].extents == (Hole(1 << 40),)
    assert bench.packs() == []


def test_one_data_file_captured_at_two_sizes_gives_each_its_own_content(bench: Bench) -> None:
    draft = bench.pending / "draft-1"
    (draft / "data").mkdir(parents=True)
    (draft / "data" / "0").write_bytes(b"abcdef")
    entries = tuple(
        Entry(path=path, kind=Kind.FILE, mode=0o600, size_bytes=size, extents=(LocalData(size, 0),))
        for path, size in ((b"long", 6), (b"short", 3))
    )
    record = bench.uploader.upload(write_part(bench.pending, 1, Part((directory(), *entries)), draft))
    assert (read(bench, record, b"long"), read(bench, record, b"short")) == (b"abcdef", b"abc")


def test_what_was_put_while_the_store_was_put_back_is_put_again_when_that_is_undone(bench: Bench) -> None:
    (bench.source / "f").write_bytes(os.urandom(1000))
    bench.save()
    older = dict(bench.store.objects)
    (bench.source / "f").write_bytes(os.urandom(1000))
    bench.save()
    bench.writer.renew()
    newer = dict(bench.store.objects)
    bench.store.objects = older
    with pytest.raises(RollbackError):
        bench.writer.renew()
    (bench.source / "f").write_bytes(os.urandom(1000))
    pending = capture(bench.source, bench.pending, 3)
    with pytest.raises(RollbackError):
        bench.uploader.upload(pending)
    bench.store.objects = newer
    record = bench.uploader.upload(pending)
    assert read(bench, record, b"f") == (bench.source / "f").read_bytes()
    assert verify(bench.history(), bench.store, read_data=True) == []
