"""Chunks encoded against those of earlier versions: fewer bytes, the same content, and no way to lose a base unseen."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfs.cache.anchors import MAX_USES, AnchorCache
from ckptfs.errors import ChunkCorruptError, CkptfsError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Chunk, Entry, Kind, Part
from ckptfs.store.file import FileStore
from ckptfs.transfer import content_writer
from ckptfs.transfer.fetch import Fetcher, FetchJob
from ckptfs.transfer.restore import IncompleteRestoreError, restore
from ckptfs.transfer.upload import VersionUploader
from ckptfs.transfer.verify import verify
from ckptfs.versions.history import open_history
from ckptfs.versions.prune import Pruner
from ckptfs.versions.references import content_chunks, needed_packs
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry
from tests.transfer.conftest import Bench
from tests.transfer.trees import acquire, capture, write_part

KIB, MIB = 1 << 10, 1 << 20
GENERATOR = np.random.default_rng(7)


def floats(size_bytes: int) -> np.ndarray:
    return GENERATOR.standard_normal(size_bytes // 4).astype(np.float32)


def drifted(values: np.ndarray, by: float = 1e-4) -> np.ndarray:
    """As an optimizer's step does."""
    return (values + by * GENERATOR.standard_normal(len(values))).astype(np.float32)


def write(path: Path, content: bytes) -> None:
    """A new file: the bytes that are pending stay as they are."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def chunks(bench: Bench, record: CommitRecord, path: bytes = b"f") -> list[Chunk]:
    return list(content_chunks([bench.history().tree(record)[path]]))


def restored(bench: Bench, record: CommitRecord, path: bytes = b"f") -> bytes:
    return Fetcher(bench.store).read_file(bench.history().tree(record)[path])


def save(bench: Bench, content: bytes | np.ndarray, name: str = "f") -> CommitRecord:
    write(bench.source / name, bytes(content))
    record = bench.save()
    assert restored(bench, record, name.encode()) == bytes(content)
    return record


def test_a_file_that_drifts_is_stored_against_the_version_before(bench: Bench) -> None:
    values = floats(6 * MIB)
    first = save(bench, values)
    second = save(bench, drifted(values))
    assert second.bytes_added < 0.6 * first.bytes_added
    assert [chunk.base for chunk in chunks(bench, second)] == chunks(bench, first)


def test_the_next_version_is_stored_against_the_same_base_and_not_against_a_delta(bench: Bench) -> None:
    values = floats(6 * MIB)
    first = save(bench, values)
    for _ in range(3):
        values = drifted(values, 1e-6)
        record = save(bench, values)
        assert [chunk.base for chunk in chunks(bench, record)] == chunks(bench, first)


def test_after_8_versions_on_one_base_a_version_stands_alone_and_is_the_next_base(bench: Bench) -> None:
    values = floats(MIB)
    records = []
    for _ in range(MAX_USES + 3):
        records.append(save(bench, values))
        values = drifted(values, 1e-7)
    alone = [chunks(bench, record)[0].base is None for record in records]
    assert alone == [True] + [False] * MAX_USES + [True, False]
    assert chunks(bench, records[-1])[0].base == chunks(bench, records[-2])[0]


def test_a_file_that_is_all_new_stands_alone(bench: Bench) -> None:
    save(bench, floats(MIB))
    assert chunks(bench, save(bench, floats(MIB)))[0].base is None


def test_without_its_base_on_local_disk_a_file_stands_alone_and_nothing_is_fetched(bench: Bench) -> None:
    values = floats(2 * MIB)
    save(bench, values)
    shutil.rmtree(bench.anchors)
    bench.anchors.mkdir()
    bench.uploader = bench.new_uploader()
    bench.store.requests.clear()
    write(bench.source / "f", drifted(values).tobytes())
    record = bench.save()
    assert not [key for operation, key in bench.store.requests if operation == "get" and key.startswith("p/")]
    assert chunks(bench, record)[0].base is None
    assert chunks(bench, save(bench, drifted(values)))[0].base == chunks(bench, record)[0]


def test_a_base_that_is_damaged_on_local_disk_is_not_used(bench: Bench) -> None:
    values = floats(2 * MIB)
    save(bench, values)
    (path,) = bench.anchors.iterdir()
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    assert chunks(bench, save(bench, drifted(values)))[0].base is None


def test_a_restarted_upload_process_finds_the_bases(bench: Bench) -> None:
    values = floats(2 * MIB)
    first = save(bench, values)
    bench.uploader = bench.new_uploader()
    assert chunks(bench, save(bench, drifted(values)))[0].base == chunks(bench, first)[0]


def test_text_that_moves_and_grows_is_stored_against_the_version_before(bench: Bench) -> None:
    lines = [b"%d %s\n" % (number, os.urandom(20).hex().encode()) for number in range(20_000)]
    first = save(bench, b"".join(lines))
    second = save(bench, b"a new first line\n" + b"".join(lines) + b"and a last one\n")
    assert second.bytes_added < 0.02 * first.bytes_added


def test_a_file_under_a_new_number_is_stored_against_the_last_one(bench: Bench) -> None:
    values = floats(2 * MIB)
    (bench.source / "step-100").mkdir()
    first = save(bench, values, "step-100/model")
    (bench.source / "step-200").mkdir()
    second = save(bench, drifted(values), "step-200/model")
    assert chunks(bench, second, b"step-200/model")[0].base == chunks(bench, first, b"step-100/model")[0]


def test_content_that_is_a_base_is_not_uploaded_again_when_it_comes_back(bench: Bench) -> None:
    values = floats(2 * MIB)
    first = save(bench, values)
    save(bench, drifted(values))
    third = save(bench, values)
    assert third.bytes_added == 0
    assert chunks(bench, third) == chunks(bench, first)


def test_a_base_outlives_the_file_that_it_was(bench: Bench) -> None:
    """It is in no version's tree any more by then, and still what the newest version needs."""
    values = floats(2 * MIB)
    packs = needed_packs(bench.history().tree(save(bench, values)).values())
    second = save(bench, drifted(values))
    assert packs < needed_packs(bench.history().tree(second).values())


def test_a_store_that_is_pruned_after_each_save_keeps_the_bases_that_are_needed_and_nothing_else(bench: Bench) -> None:
    pruner = Pruner(bench.history(), Retry(), host="cleaner", pid=1)
    values = floats(MIB)
    based = 0
    for _ in range(MAX_USES + 3):
        values = drifted(values, 1e-5)
        record = save(bench, values)
        pruner.prune(Retention(keep_last=1))
        assert restored(bench, record) == bytes(values)
        assert bench.history().numbers() == [record.version]
        assert set(bench.packs()) == needed_packs(bench.history().tree(record).values())
        based += chunks(bench, record)[0].base is not None
    assert MAX_USES <= based < MAX_USES + 3
    # an upload process that starts now finds its bases in the store, too
    bench.uploader = bench.new_uploader()
    save(bench, drifted(values, 1e-5))


def test_a_commit_says_that_it_needs_the_bases_of_what_a_restore_brought_back(bench: Bench) -> None:
    values = floats(2 * MIB)
    save(bench, values)
    second = save(bench, drifted(values))
    entry = bench.history().tree(second)[b"f"]
    (bench.source / "f").unlink()
    bench.version += 1
    bench.uploader.upload(write_part(bench.pending, 3, Part((), (b"f",))))
    drafts = []
    real = bench.writer.commit_save
    bench.writer.commit_save = lambda draft: drafts.append(draft) or real(draft)  # type: ignore[method-assign,func-returns-value]
    bench.uploader.upload(write_part(bench.pending, 4, Part((entry,))))
    assert drafts[0].revived == needed_packs([entry])
    assert len(drafts[0].revived) == 2


# reading


def test_each_base_is_asked_for_once_however_many_chunks_need_it(bench: Bench) -> None:
    values = floats(4 * MIB)
    base = chunks(bench, save(bench, values, "f-0"), b"f-0")[0]
    contents = {}
    for number in range(1, 4):
        contents[b"f-%d" % number] = drifted(values).tobytes()
        write(bench.source / f"f-{number}", contents[b"f-%d" % number])
    tree = bench.history().tree(bench.save())
    assert [chunk.base for path in contents for chunk in content_chunks([tree[path]])] == [base] * 3
    bench.store.requests.clear()
    found = {path: bytearray(len(content)) for path, content in contents.items()}

    def job(path: bytes) -> FetchJob:
        def write(offset: int, data: bytes) -> None:
            found[path][offset : offset + len(data)] = data

        return FetchJob(tree[path], write)

    errors: list[CkptfsError | None] = []
    Fetcher(bench.store).fetch([job(path) for path in contents], lambda _, error: errors.append(error))
    assert errors == [None] * 3
    assert found == contents
    assert sum(operation == "get" and key == base.pack for operation, key in bench.store.requests) == 1


def damage(bench: Bench, chunk: Chunk) -> None:
    def flip(body: bytearray) -> None:
        body[chunk.offset_bytes + chunk.stored_bytes - 1] ^= 1

    bench.damage(chunk.pack, flip)


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_base_that_is_lost_is_named_with_the_file_and_the_chunk_that_need_it(
    bench: Bench, tmp_path: Path, how: str
) -> None:
    values = floats(2 * MIB)
    save(bench, values)
    write(bench.source / "other", b"all is well")
    second = save(bench, drifted(values))
    (chunk,) = chunks(bench, second)
    assert chunk.base is not None
    if how == "damaged":
        damage(bench, chunk.base)
    else:
        del bench.store.objects[chunk.base.pack]
    with pytest.raises(ChunkCorruptError) as caught:
        restored(bench, second)
    for text in ("'f'", chunk.hash.hex(), chunk.pack, "its base", chunk.base.hash.hex(), chunk.base.pack):
        assert text in caught.value.fact
    with pytest.raises(IncompleteRestoreError, match="1 of 2 files"):
        restore(bench.history(), bench.store, second, tmp_path / "restored")
    assert (tmp_path / "restored" / "other").read_bytes() == b"all is well"


@pytest.mark.parametrize("read_data", [False, True])
def test_verify_names_every_file_that_needs_a_lost_base(bench: Bench, read_data: bool) -> None:
    values = floats(2 * MIB)
    first = save(bench, values)
    second = save(bench, drifted(values))
    (chunk,) = chunks(bench, second)
    assert chunk.base is not None
    assert verify(bench.history(), bench.store, read_data=True) == []
    if read_data:
        damage(bench, chunk.base)
    else:
        del bench.store.objects[chunk.base.pack]
    findings = verify(bench.history(), bench.store, read_data=read_data)
    assert [(row.version, row.path, row.chunk, row.object_key) for row in findings] == [
        (2, b"f", chunk.hash.hex(), chunk.base.pack),
        (1, b"f", chunk.base.hash.hex(), chunk.base.pack),
    ]
    assert "its base" in findings[0].fact
    only_second = verify(bench.history(), bench.store, record=second, read_data=read_data)
    assert only_second == findings[:1]
    assert first.version == 1


def test_verify_reads_each_chunk_once_bases_included(bench: Bench) -> None:
    values = floats(4 * MIB)
    save(bench, values)
    for _ in range(3):
        values = drifted(values, 1e-6)
        save(bench, values)
    progress: list[tuple[int, int]] = []
    bench.store.requests.clear()
    assert verify(bench.history(), bench.store, read_data=True, on_progress=lambda *row: progress.append(row)) == []
    asked = [key for operation, key in bench.store.requests if operation == "get" and key.startswith("p/")]
    # of each pack its header, its table and its only chunk
    assert {key: asked.count(key) for key in asked} == dict.fromkeys(asked, 3)
    assert len(set(asked)) == 4
    assert progress[-1][0] == progress[-1][1]


def test_a_frame_that_names_another_base_than_the_manifest_is_refused(bench: Bench) -> None:
    values = floats(MIB)
    save(bench, values)
    (chunk,) = chunks(bench, save(bench, drifted(values)))
    wrong = Entry(
        path=b"f",
        kind=Kind.FILE,
        mode=0o600,
        size_bytes=chunk.size_bytes,
        extents=(chunk._replace(base=None),),
    )
    with pytest.raises(ChunkCorruptError, match="against another chunk than the manifest says"):
        Fetcher(bench.store).read_file(wrong)


# any history


class Files:
    """The files of a source tree, changed as programs change theirs."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.contents: dict[str, bytes] = {}

    def change(self, kind: str, name: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        content = self.contents.get(name, b"")
        place = int(random.integers(0, len(content) + 1))
        if kind == "floats":
            content = random.standard_normal(int(random.integers(1, 80_000))).astype(np.float32).tobytes()
        elif kind == "text":
            content = b" ".join(b"%d" % number for number in random.integers(0, 500, int(random.integers(1, 60_000))))
        elif kind == "drift" and len(content) >= 4:
            values = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
            with np.errstate(all="ignore"):
                content = drifted(values).tobytes() + content[len(content) // 4 * 4 :]
        elif kind == "edit":
            content = content[:place] + random.bytes(5000) + content[place + 5000 :]
        elif kind == "insert":
            content = content[:place] + random.bytes(100) + content[place:]
        elif kind == "append":
            content += random.bytes(int(random.integers(1, 100_000)))
        elif kind == "truncate":
            content = content[:place]
        elif kind == "rename":
            self.remove(name)
            name = f"{name}-{seed}"
        elif kind == "hole":
            content = content[:place] + bytes(200_000)
        self.contents[name] = content
        write(self.source / name, content)

    def remove(self, name: str) -> None:
        self.contents.pop(name, None)
        (self.source / name).unlink(missing_ok=True)


KINDS = ["floats", "text", "drift", "drift", "drift", "edit", "insert", "append", "truncate", "rename", "hole"]
step = st.tuples(st.sampled_from(KINDS), st.sampled_from(["a", "b", "model-1"]), st.integers(0, 50))
version = st.tuples(st.lists(step, max_size=4), st.sampled_from(["", "", "", "restart", "lose", "damage"]))


@given(st.lists(version, min_size=2, max_size=9))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_version_of_any_history_is_restored_from_the_store_alone(
    versions: list[tuple[list[tuple[str, str, int]], str]],
) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        # so that files have several chunks
        patch.setattr(content_writer, "CHUNK_BYTES", 64 * KIB)
        patch.setattr(content_writer, "_INLINE_BYTES", 32 * KIB)
        root = Path(directory)
        for name in ("store", "pending", "source", "anchors"):
            (root / name).mkdir()
        store = FileStore(root / "store")
        writer = acquire(store)
        uploader = VersionUploader(store, writer, writer.history, anchors=AnchorCache(root / "anchors", 1 << 30))
        files = Files(root / "source")
        expected: list[dict[str, bytes]] = [{}]
        for number, (steps, fate) in enumerate(versions, 1):
            for kind, name, seed in steps:
                files.change(kind, name, seed)
            gone = tuple(sorted(name.encode() for name in expected[-1].keys() - files.contents.keys()))
            uploader.upload(capture(files.source, root / "pending", number, gone=gone))
            expected.append(dict(files.contents))
            hurt(root / "anchors", fate)
            if fate:
                anchors = AnchorCache(root / "anchors", 1 << 30)
                uploader = VersionUploader(store, writer, writer.history, anchors=anchors)
        history = open_history(store)
        assert verify(history, store, read_data=True) == []
        for number, contents in enumerate(expected[1:], 1):
            found = restore(history, store, history.resolve(number), root / f"target-{number}")
            bases = [chunk.base for chunk in content_chunks(found.values()) if chunk.base is not None]
            assert all(base.base is None for base in bases)
            assert {path.name: path.read_bytes() for path in (root / f"target-{number}").iterdir()} == contents


def hurt(anchors: Path, fate: str) -> None:
    for path in sorted(anchors.iterdir())[::2]:
        if fate == "lose":
            path.unlink()
        elif fate == "damage":
            path.write_bytes(path.read_bytes()[::-1])
