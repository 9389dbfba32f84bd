"""Fetching: every chunk checked, asked for once, and no file hurt by another's damage."""

import os
import threading
from collections.abc import Callable

import pytest

from ckptfs.errors import ChunkCorruptError, CkptfsError, CorruptObjectError, StoreUnavailableError
from ckptfs.format.manifest import Chunk, Entry, Tree
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.fetch import Fetcher, FetchJob
from ckptfs.transfer.pack_ranges import MAX_GAP_BYTES
from ckptfs.versions.retry import Retry
from tests.transfer.conftest import Bench
from tests.versions.memory_store import Fault, fail_next

MIB = 1 << 20


def fetch(bench: Bench, entries: list[Entry], **options: object) -> dict[bytes, bytes | CkptfsError]:
    """Fetch files; return the content or the error of each."""
    found: dict[bytes, bytes | CkptfsError] = {}
    contents = {entry.path: bytearray(entry.size_bytes) for entry in entries}

    def writer(content: bytearray) -> Callable[[int, bytes], None]:
        def write(offset: int, data: bytes) -> None:
            content[offset : offset + len(data)] = data

        return write

    def done(job: FetchJob, error: CkptfsError | None) -> None:
        assert job.entry.path not in found
        found[job.entry.path] = error or bytes(contents[job.entry.path])

    jobs = [FetchJob(entry, writer(contents[entry.path])) for entry in entries]
    Fetcher(bench.store, retry=Retry(budget_s=0.2, most_s=0.05)).fetch(jobs, done, **options)
    return found


def save(bench: Bench, **files: bytes) -> Tree:
    for name, content in files.items():
        (bench.source / name).write_bytes(content)
    return bench.history().tree(bench.save())


def chunk(entry: Entry, index: int = 0) -> Chunk:
    found = [extent for extent in entry.extents if isinstance(extent, Chunk)][index]
    assert found.base is None
    return found


def range_requests(bench: Bench) -> int:
    return sum(1 for operation, key in bench.store.requests if operation == "get" and key.startswith("p/"))


def test_files_of_one_pack_come_with_few_requests(bench: Bench) -> None:
    files = {f"f{number:03}": os.urandom(1000) for number in range(200)}
    tree = save(bench, **files)
    bench.store.requests.clear()
    found = fetch(bench, [entry for entry in tree.values() if entry.path])
    assert found == {name.encode(): content for name, content in files.items()}
    assert range_requests(bench) == 1


def test_a_chunk_that_several_files_share_is_fetched_once(bench: Bench) -> None:
    content = os.urandom(2 * CHUNK_BYTES)
    tree = save(bench, a=content, b=content, c=content[:CHUNK_BYTES])
    bench.store.requests.clear()
    sizes: list[int] = []
    found = fetch(bench, [tree[b"a"], tree[b"b"], tree[b"c"]], on_bytes=sizes.append)
    assert found == {b"a": content, b"b": content, b"c": content[:CHUNK_BYTES]}
    assert range_requests(bench) == 1
    assert sum(sizes) == 5 * CHUNK_BYTES


def test_only_the_chunks_of_the_range_asked_for_are_fetched(bench: Bench) -> None:
    content = os.urandom(6 * CHUNK_BYTES)
    entry = save(bench, f=content)[b"f"]
    written: dict[int, bytes] = {}
    done: list[CkptfsError | None] = []
    job = FetchJob(entry, written.__setitem__, start_bytes=2 * CHUNK_BYTES + 5, end_bytes=3 * CHUNK_BYTES + 1)
    Fetcher(bench.store).fetch([job], lambda _, error: done.append(error))
    assert done == [None]
    assert written == {
        index * CHUNK_BYTES: content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] for index in (2, 3)
    }


def test_a_file_without_data_is_done_without_a_request(bench: Bench) -> None:
    with (bench.source / "hole").open("wb") as file:
        file.truncate(10000)
    tree = save(bench, empty=b"")
    bench.store.requests.clear()
    assert fetch(bench, [tree[b"empty"], tree[b"hole"]]) == {b"empty": b"", b"hole": bytes(10000)}
    assert bench.store.requests == []


def flip(body: bytearray, chunk: Chunk) -> None:
    body[chunk.offset_bytes + chunk.stored_bytes - 1] ^= 1


@pytest.mark.parametrize("content", [os.urandom(5000), b"compressible " * 500], ids=["raw", "zstd"])
def test_a_flipped_bit_fails_the_file_that_holds_it_and_no_other(bench: Bench, content: bytes) -> None:
    tree = save(bench, a=b"a" * 5000, b=content, c=b"c" * 5000)
    bad = chunk(tree[b"b"])
    bench.damage(bad.pack, lambda body: flip(body, bad))
    found = fetch(bench, [tree[b"a"], tree[b"b"], tree[b"c"]])
    assert (found[b"a"], found[b"c"]) == (b"a" * 5000, b"c" * 5000)
    error = found[b"b"]
    assert isinstance(error, ChunkCorruptError)
    assert all(text in error.fact for text in ("'b'", bad.hash.hex(), bad.pack))


def test_a_damaged_chunk_fails_every_file_that_holds_it(bench: Bench) -> None:
    shared = os.urandom(CHUNK_BYTES)
    tree = save(bench, a=shared, b=shared + b"more", c=os.urandom(10))
    bench.damage(chunk(tree[b"a"]).pack, lambda body: flip(body, chunk(tree[b"a"])))
    found = fetch(bench, [tree[b"a"], tree[b"b"], tree[b"c"]])
    assert isinstance(found[b"a"], ChunkCorruptError)
    assert isinstance(found[b"b"], ChunkCorruptError)
    assert found[b"c"] == (bench.source / "c").read_bytes()


def test_a_truncated_pack_fails_only_what_it_lost(bench: Bench) -> None:
    tree = save(bench, a=os.urandom(MIB), b=os.urandom(MIB), c=os.urandom(MIB))
    lost = chunk(tree[b"b"])

    def truncate(body: bytearray) -> None:
        del body[lost.offset_bytes + 100 :]

    bench.damage(lost.pack, truncate)
    found = fetch(bench, [tree[b"a"], tree[b"b"], tree[b"c"]])
    assert found[b"a"] == (bench.source / "a").read_bytes()
    for name in (b"b", b"c"):
        error = found[name]
        assert isinstance(error, ChunkCorruptError)
        assert lost.pack in error.fact


def test_a_missing_pack_is_damage_and_not_a_missing_file(bench: Bench) -> None:
    tree = save(bench, a=os.urandom(33 * MIB), b=os.urandom(MIB))
    lost = chunk(tree[b"a"])
    del bench.store.objects[lost.pack]
    bench.store.requests.clear()
    found = fetch(bench, [tree[b"a"], tree[b"b"]])
    error = found[b"a"]
    assert isinstance(error, CorruptObjectError)
    assert error.errno == CkptfsError.errno
    assert all(text in error.fact for text in ("'a'", lost.hash.hex(), lost.pack, "missing"))
    assert found[b"b"] == (bench.source / "b").read_bytes()


def test_damage_is_asked_for_twice_and_never_again(bench: Bench) -> None:
    tree = save(bench, a=os.urandom(1000))
    bench.damage(chunk(tree[b"a"]).pack, lambda body: flip(body, chunk(tree[b"a"])))
    bench.store.requests.clear()
    fetch(bench, [tree[b"a"]])
    assert range_requests(bench) == 2


def test_what_is_damaged_on_its_way_comes_right_the_second_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = save(bench, a=os.urandom(1000), b=os.urandom(1000))
    ask = bench.store.get_range
    answers: list[int] = []

    def bent_once(key: str, offset_bytes: int, size_bytes: int) -> bytes:
        body = bytearray(ask(key, offset_bytes, size_bytes))
        answers.append(size_bytes)
        if len(answers) == 1:
            body[-1] ^= 1
        return bytes(body)

    monkeypatch.setattr(bench.store, "get_range", bent_once)
    contents = [Fetcher(bench.store).read_file(tree[name]) for name in (b"a", b"b")]
    assert contents == [(bench.source / name).read_bytes() for name in ("a", "b")]
    # one chunk was bent, and it alone came again
    assert len(answers) == 3


def test_a_manifest_that_points_at_another_frame_is_damage(bench: Bench) -> None:
    tree = save(bench, a=os.urandom(1000), b=os.urandom(1000))
    a, b = chunk(tree[b"a"]), chunk(tree[b"b"])
    liar = Entry(
        path=b"l", kind=tree[b"a"].kind, mode=0, size_bytes=1000, extents=(a._replace(offset_bytes=b.offset_bytes),)
    )
    assert isinstance(fetch(bench, [liar])[b"l"], ChunkCorruptError)


def test_a_store_that_fails_once_is_asked_again(bench: Bench) -> None:
    tree = save(bench, a=os.urandom(1000))
    bench.store.faults = fail_next("get", "p/", Fault.BEFORE, Fault.BEFORE)
    assert fetch(bench, [tree[b"a"]])[b"a"] == (bench.source / "a").read_bytes()


def test_a_store_that_stays_away_fails_all_files_within_about_one_budget(bench: Bench) -> None:
    tree = save(bench, **{f"f{number:03}": os.urandom(MAX_GAP_BYTES) for number in range(120)})
    # every second file is a request of its own
    wanted = [entry for entry in tree.values() if entry.path][::2]
    bench.store.requests.clear()
    bench.store.faults = lambda operation, key: Fault.BEFORE
    found = fetch(bench, wanted)
    assert len(found) == 60
    assert all(isinstance(error, StoreUnavailableError) for error in found.values())
    # 8 requests have patience, of about 7 attempts in 0.2 s; the others are tried once each, else it were 420
    assert 60 <= range_requests(bench) < 240


def test_a_store_that_was_away_is_asked_with_patience_again_once_it_is_back(bench: Bench) -> None:
    entry = save(bench, a=os.urandom(1000))[b"a"]
    fetcher = Fetcher(bench.store, retry=Retry(budget_s=0.2, most_s=0.05))
    bench.store.faults = lambda operation, key: Fault.BEFORE
    with pytest.raises(StoreUnavailableError):
        fetcher.read_file(entry)
    bench.store.faults = lambda operation, key: Fault.NONE
    fetcher.read_file(entry)
    bench.store.faults = fail_next("get", "p/", Fault.BEFORE)
    assert fetcher.read_file(entry) == (bench.source / "a").read_bytes()


def test_a_write_that_fails_fails_its_own_file_with_the_same_errno(bench: Bench) -> None:
    tree = save(bench, a=os.urandom(1000), b=os.urandom(1000))
    done: dict[bytes, CkptfsError | None] = {}

    def full(offset: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    jobs = [FetchJob(tree[b"a"], full), FetchJob(tree[b"b"], lambda offset, data: None)]
    Fetcher(bench.store).fetch(jobs, lambda job, error: done.__setitem__(job.entry.path, error))
    assert done[b"b"] is None
    error = done[b"a"]
    assert error is not None
    assert error.errno == 28
    assert "'a'" in error.fact


def test_an_error_of_the_callback_ends_the_fetch_and_leaves_no_thread(bench: Bench) -> None:
    tree = save(bench, **{f"f{number}": os.urandom(17 * MIB) for number in range(4)})

    def done(job: FetchJob, error: CkptfsError | None) -> None:
        raise RuntimeError("stop")

    before = threading.active_count()
    jobs = [FetchJob(entry, lambda offset, data: None) for entry in tree.values() if entry.path]
    with pytest.raises(RuntimeError, match="stop"):
        Fetcher(bench.store).fetch(jobs, done)
    assert threading.active_count() == before


def test_read_file_returns_the_whole_file_holes_included_or_raises(bench: Bench) -> None:
    with (bench.source / "f").open("wb") as file:
        file.seek(100_000)
        file.write(b"end")
    tree = bench.history().tree(bench.save())
    assert Fetcher(bench.store).read_file(tree[b"f"]) == bytes(100_000) + b"end"
    bench.damage(chunk(tree[b"f"]).pack, lambda body: flip(body, chunk(tree[b"f"])))
    with pytest.raises(ChunkCorruptError):
        Fetcher(bench.store).read_file(tree[b"f"])


def test_an_interrupt_ends_it_at_once_and_what_is_under_way_is_not_handed_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = save(bench, a=os.urandom(33 * MIB), b=os.urandom(33 * MIB))
    entries = [tree[b"a"], tree[b"b"]]
    get_range = bench.store.get_range
    asked, go_on, answered = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    def slow(key: str, offset_bytes: int, size_bytes: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            assert asked.acquire(timeout=30), "others have begun"
            raise KeyboardInterrupt
        asked.release()
        assert go_on.wait(30), "somebody waited for what is under way"
        body = get_range(key, offset_bytes, size_bytes)
        answered.release()
        return body

    monkeypatch.setattr(bench.store, "get_range", slow)
    written: list[int] = []
    jobs = [FetchJob(entry, lambda offset, data: written.append(offset)) for entry in entries]
    with pytest.raises(KeyboardInterrupt):
        Fetcher(bench.store).fetch(jobs, lambda job, error: None)
    others = [thread for thread in threading.enumerate() if thread.name == "ckptfs-fetch"]
    go_on.set()
    assert answered.acquire(timeout=30)
    for thread in others:
        thread.join(30)
    assert written == []
