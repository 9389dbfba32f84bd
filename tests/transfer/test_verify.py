"""Verifying: a whole store is found whole, and damage is found where it is, in every version that it affects."""

import os
from collections.abc import Callable

import pytest

from ckptfs.errors import NoSuchVersionError, StoreUnavailableError
from ckptfs.format.keys import commit_key
from ckptfs.format.manifest import Chunk, Entry, Kind, Part
from ckptfs.format.pack import PackBuilder, decode_trailer, table_bytes
from ckptfs.transfer import pack_tables
from ckptfs.transfer.verify import Finding, verify
from ckptfs.versions.history import open_history
from tests.transfer.conftest import Bench
from tests.transfer.trees import directory, write_part
from tests.versions.memory_store import Fault
from tests.versions.scene import collect

MIB = 1 << 20


def check(bench: Bench, *, read_data: bool = False, version: int | None = None) -> list[Finding]:
    history = open_history(bench.store)
    record = history.resolve(version) if version is not None else None
    return verify(history, bench.store, record=record, read_data=read_data)


def chunk_of(bench: Bench, version: int, path: bytes) -> Chunk:
    history = open_history(bench.store)
    (chunk,) = history.tree(history.resolve(version))[path].extents
    assert isinstance(chunk, Chunk)
    return chunk


@pytest.fixture
def three(bench: Bench) -> Bench:
    """Three versions: `same` is in all of them, `each` differs in each."""
    (bench.source / "same").write_bytes(os.urandom(MIB))
    for number in range(3):
        (bench.source / "each").write_bytes(os.urandom(1000 + number))
        bench.save()
    return bench


def test_an_empty_store_and_a_whole_one_have_no_findings(bench: Bench, three: Bench) -> None:
    assert check(three) == []
    assert check(three, read_data=True) == []


def test_every_chunk_is_read_once_however_many_versions_hold_it(three: Bench) -> None:
    progress: list[tuple[int, int]] = []
    history = open_history(three.store)
    three.store.requests.clear()
    verify(history, three.store, read_data=True, on_progress=lambda *row: progress.append(row))
    # and of each pack the header and the table
    assert sum(1 for operation, key in three.store.requests if operation == "get" and key.startswith("p/")) == 3 + 6
    total = MIB + 12 + sum(1000 + number + 12 for number in range(3))
    assert (progress[0], progress[-1]) == ((0, total), (total, total))


@pytest.mark.parametrize("path", [b"same", b"each"])
def test_a_missing_pack_is_found_in_every_version_and_file_that_needs_it(three: Bench, path: bytes) -> None:
    chunk = chunk_of(three, 1, path)
    del three.store.objects[chunk.pack]
    findings = check(three)
    found = {(finding.version, finding.path) for finding in findings}
    # both files of version 1 are in one pack, and `same` is there for all versions
    assert found == {(3, b"same"), (2, b"same"), (1, b"same"), (1, b"each")}
    assert {finding.object_key for finding in findings} == {chunk.pack}
    assert {finding.fact for finding in findings} == {"the pack is missing"}
    assert check(three, version=3) == [finding for finding in findings if finding.version == 3]


def test_a_truncated_pack_is_found_without_reading_data(three: Bench) -> None:
    chunk = chunk_of(three, 2, b"each")

    def truncate(body: bytearray) -> None:
        del body[chunk.offset_bytes + chunk.stored_bytes - 1 :]

    three.damage(chunk.pack, truncate)
    (finding,) = check(three)
    assert (finding.version, finding.path, finding.chunk) == (2, b"each", chunk.hash.hex())
    assert "the chunk ends at" in finding.fact


def flipped(body: bytes, offset: int) -> bytes:
    changed = bytearray(body)
    changed[offset] ^= 1
    return bytes(changed)


def without_row(body: bytes) -> bytes:
    """Take the first row out of a pack's table, in which all else is right."""
    pack = PackBuilder()
    for row in decode_trailer(body)[1:]:
        pack.add(body[row.offset_bytes : row.offset_bytes + row.stored_bytes], row.digest, row.raw_bytes)
    table = pack.finish()
    return body[: len(body) - table_bytes(decode_trailer(body))] + table[-table_bytes(decode_trailer(table)) :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: flipped(body, 3),
        lambda body: flipped(body, 8),
        lambda body: flipped(body, len(body) - 48 - 20),
        lambda body: flipped(body, len(body) - 48),
        lambda body: flipped(body, len(body) - 1),
        lambda body: body[:-1],
        lambda body: body[: -48 - 44],
        lambda body: body + b"more",
        without_row,
    ],
    ids=["magic", "version", "row", "count", "end", "cut", "no table", "longer", "another table"],
)
@pytest.mark.parametrize("tail_bytes", [1 << 20, 0], ids=["one request", "footer first"])
def test_damage_around_the_frames_of_a_pack_is_found_and_concerns_no_version(
    three: Bench, damage: Callable[[bytes], bytes], tail_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_tables, "_TAIL_BYTES", tail_bytes)
    assert check(three, read_data=True) == []
    pack = chunk_of(three, 1, b"same").pack
    three.store.objects[pack] = damage(three.store.objects[pack])
    (finding,) = check(three, read_data=True)
    assert (finding.version, finding.path, finding.chunk, finding.object_key) == (0, b"", "", pack)
    assert "no version needs it" in finding.fact


@pytest.mark.parametrize("tail_bytes", [1 << 20, 0], ids=["one request", "footer first"])
def test_what_no_version_needs_any_more_is_in_the_table_all_the_same(
    bench: Bench, tail_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_tables, "_TAIL_BYTES", tail_bytes)
    for name in "az":
        (bench.source / name).write_bytes(os.urandom(1000))
    bench.save()
    (bench.source / "z").unlink()
    bench.save()
    collect(bench.store, dropped=[(1, 1)])
    pack = chunk_of(bench, 2, b"a").pack
    assert len(decode_trailer(bench.store.objects[pack])) == 2
    assert check(bench, read_data=True) == []


def test_a_flipped_bit_is_found_only_by_reading_data(three: Bench) -> None:
    chunk = chunk_of(three, 1, b"same")

    def flip(body: bytearray) -> None:
        body[chunk.offset_bytes + 500] ^= 4

    three.damage(chunk.pack, flip)
    assert check(three) == []
    findings = check(three, read_data=True)
    assert [(f.version, f.path, f.chunk) for f in findings] == [(v, b"same", chunk.hash.hex()) for v in (3, 2, 1)]
    assert all(chunk.pack in finding.fact for finding in findings)


@pytest.mark.parametrize("change", [lambda body: body.__setitem__(40, body[40] ^ 1), lambda body: body.clear()])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_damaged_commit_record_is_found_and_the_others_are_still_checked(
    three: Bench, change: Callable[[bytearray], None], version: int
) -> None:
    key = commit_key(open_history(three.store).resolve(version).seq)
    other = chunk_of(three, 1 if version != 1 else 2, b"each")
    three.damage(key, change)
    del three.store.objects[other.pack]
    findings = check(three)
    assert key in {finding.object_key for finding in findings}
    assert other.pack in {finding.object_key for finding in findings}


def test_a_missing_commit_record_in_the_middle_is_found(three: Bench) -> None:
    key = commit_key(open_history(three.store).resolve(2).seq)
    del three.store.objects[key]
    findings = check(three)
    assert key in {finding.object_key for finding in findings}


def test_a_missing_manifest_segment_is_found(bench: Bench) -> None:
    # names that do not compress, too long to be inlined
    names = sorted({os.urandom(200).translate(None, b"/\0.") for _ in range(8000)})
    entries = [Entry(path=name, kind=Kind.FILE, mode=0o600) for name in names]
    bench.uploader.upload(write_part(bench.pending, 1, Part((directory(), *entries))))
    (segment,) = [key for key in bench.store.objects if key.startswith("m/")]
    assert check(bench) == []
    del bench.store.objects[segment]
    (finding,) = check(bench)
    assert finding.version == 1
    assert segment in finding.fact


def test_dropped_versions_are_not_missed(three: Bench) -> None:
    old = chunk_of(three, 1, b"each")
    # version 1's pack holds `same` too: what prune would keep is kept here by leaving version 1 alone
    second = chunk_of(three, 2, b"each")
    collect(three.store, dropped=[(2, 2)], condemned=[second.pack])
    del three.store.objects[second.pack]
    assert check(three, read_data=True) == []
    assert old.pack in three.store.objects


def test_a_store_that_does_not_answer_is_an_error_and_no_finding(three: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfs.versions.retry.Retry.call", lambda self, request: request())
    three.store.faults = lambda operation, key: Fault.BEFORE if key.startswith("p/") else Fault.NONE
    with pytest.raises(StoreUnavailableError):
        check(three, read_data=True)


def test_what_is_pruned_meanwhile_is_no_fault(three: Bench) -> None:
    history = open_history(three.store)
    record = history.version(1)
    gone = chunk_of(three, 2, b"each").pack

    def prune(_: int, __: int) -> None:
        if gone in three.store.objects:
            collect(three.store, dropped=[(1, 2)], condemned=[gone])
            del three.store.objects[gone]

    told: list[object] = []
    assert verify(history, three.store, read_data=True, on_damage=told.extend, on_progress=prune) == []
    assert told == []
    del three.store.objects[chunk_of(three, 3, b"same").pack]
    with pytest.raises(NoSuchVersionError, match=r"version 1 .* pruned while"):
        verify(history, three.store, record=record)
    assert {finding.version for finding in check(three)} == {3}
