"""Files that are being filled: which requests a read makes, in which order, and what readers are told."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ckptfs.errors import ChunkCorruptError, CkptfsError, CorruptObjectError, StoreUnavailableError
from ckptfs.format.manifest import Chunk, Entry
from ckptfs.fs.hydration.contents import ContentCache, doubt_after_restart
from ckptfs.fs.hydration.fetching import FetchQueue, Priority, Reader
from ckptfs.fs.hydration.filling import Filling
from ckptfs.fs.hydration.prefetch import Prefetch
from ckptfs.fs.interrupts import Interrupts
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.fetch import Fetcher
from ckptfs.versions.retry import Retry
from tests.mounting import wait_until
from tests.transfer.conftest import Bench

PIECE = 128 << 10


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Scene:
    """One file of a store, being filled on local disk."""

    def __init__(self, bench: Bench, content: bytes, **others: bytes) -> None:
        self.bench = bench
        self.content = content
        for name, other in {"file": content, **others}.items():
            (bench.source / name).write_bytes(other)
        self.tree = bench.history().tree(bench.save())
        self.store = bench.store
        self.store.requests.clear()
        self.queue = FetchQueue(Fetcher(self.store, workers=1, retry=Retry(budget_s=0.1, most_s=0.02)))
        self.target = bench.source.parent / "filled"
        self.filling = self.make(self.tree[b"file"])

    def make(self, entry: Entry, *, suspect: bool = False) -> Filling:
        filling = Filling(entry, suspect=suspect, whole=Filling.finished)
        fd = os.open(self.target, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(fd, entry.size_bytes)
        filling.open(fd)
        return filling

    def reader(self) -> Reader:
        assert self.filling.join()
        return Reader(self.filling, self.queue)

    def read(self, reader: Reader, start: int, size: int) -> bytes:
        reader.require(start, start + size)
        return os.pread(self.filling.fd, size, start)

    @property
    def gets(self) -> int:
        return self.store.count("get")


class Gate:
    """Holds GETs back, and counts how many wait at once."""

    def __init__(self, scene: Scene) -> None:
        self.waiting = self.most = 0
        self.keys: list[str] = []
        self._open = threading.Event()
        self._lock = threading.Lock()
        scene.store.before_request = self._begin

    def open(self) -> None:
        self._open.set()

    def _begin(self, operation: str, key: str) -> None:
        with self._lock:
            self.waiting += 1
            self.keys.append(key)
            self.most = max(self.most, self.waiting)
        assert self._open.wait(30)
        with self._lock:
            self.waiting -= 1


def test_who_reads_gets_its_chunks_also_where_no_more_threads_may_be_had(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(bench, os.urandom(12 * CHUNK_BYTES))
    refused: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "fetch":
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    reader = scene.reader()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        for index in range(10):
            assert scene.read(reader, index * CHUNK_BYTES, 100) == scene.content[index * CHUNK_BYTES :][:100]
    assert refused
    # and later, when there are some
    assert scene.read(reader, 0, len(scene.content)) == scene.content
    scene.queue.stop()


def test_readers_of_one_chunk_share_one_request(bench: Bench) -> None:
    scene = Scene(bench, os.urandom(3 * CHUNK_BYTES))
    gate = Gate(scene)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(scene.read(scene.reader(), CHUNK_BYTES + 5, 100)))
        for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: gate.waiting == 1, 10, "one asks")
    time.sleep(0.05)
    gate.open()
    for thread in threads:
        thread.join(20)
    assert found == [scene.content[CHUNK_BYTES + 5 :][:100]] * 9
    assert scene.gets == 1


def test_neighbours_come_in_one_request_and_reads_here_and_there_bring_nothing_else(bench: Bench) -> None:
    scene = Scene(bench, os.urandom(7 * CHUNK_BYTES))
    reader = scene.reader()
    for offset, size, gets in (
        (CHUNK_BYTES - 1, 2, 1),
        (5 * CHUNK_BYTES, 500, 2),
        (4 * CHUNK_BYTES - 7, 7, 3),
        (8, 8, 3),
    ):
        assert scene.read(reader, offset, size) == scene.content[offset:][:size]
        assert scene.gets == gets
    assert scene.filling.missing_bytes == 3 * CHUNK_BYTES
    assert scene.queue.fetched_bytes == 4 * CHUNK_BYTES


def test_one_who_reads_in_order_has_several_requests_in_flight(bench: Bench) -> None:
    scene = Scene(bench, os.urandom(12 * CHUNK_BYTES))
    reader = scene.reader()
    offset = 0
    while offset < 2 * CHUNK_BYTES:
        assert scene.read(reader, offset, PIECE) == scene.content[offset:][:PIECE]
        offset += PIECE
    wait_until(lambda: scene.queue.fetched_bytes >= 3 * CHUNK_BYTES, 10, "it is ahead")
    gate = Gate(scene)
    rest = threading.Thread(
        target=lambda: [scene.read(reader, start, PIECE) for start in range(offset, len(scene.content), PIECE)]
    )
    rest.start()
    wait_until(lambda: gate.most >= 3, 10, "three at once")
    gate.open()
    rest.join(20)
    assert scene.filling.is_filled
    assert scene.target.read_bytes() == scene.content
    assert scene.gets <= 10


def test_who_waits_comes_before_what_is_fetched_ahead(bench: Bench) -> None:
    others = {f"other-{number}": os.urandom(CHUNK_BYTES) for number in range(9)}
    scene = Scene(bench, os.urandom(CHUNK_BYTES), **others)
    gate = Gate(scene)
    fillings = [scene.make(scene.tree[name.encode()]) for name in others]
    for filling in fillings:
        scene.queue.ask([(filling, 0)], Priority.PREFETCH)
    wait_until(lambda: gate.waiting == 4, 10, "some are fetched ahead")
    reader = threading.Thread(target=scene.read, args=(scene.reader(), 0, 1))
    reader.start()
    wait_until(lambda: gate.waiting == 5, 10, "the reader need not wait for them")
    gate.open()
    reader.join(20)
    assert not reader.is_alive()
    wait_until(lambda: all(filling.is_filled for filling in fillings), 10, "and then the others")


def test_a_chunk_that_is_damaged_fails_those_who_read_it_until_it_is_right_again(bench: Bench) -> None:
    scene = Scene(bench, os.urandom(3 * CHUNK_BYTES))
    chunk = scene.filling.chunks[1]
    pack = chunk.pack
    whole = bench.store.objects[pack]
    bench.damage(pack, lambda body: body.__setitem__(chunk.offset_bytes + 1000, body[chunk.offset_bytes + 1000] ^ 1))
    reader = scene.reader()
    for _ in range(2):
        with pytest.raises(ChunkCorruptError, match=rf"'file': chunk {chunk.hash.hex()} in {pack}"):
            reader.require(CHUNK_BYTES, CHUNK_BYTES + 1)
    with pytest.raises(CorruptObjectError):
        reader.require_all()
    assert scene.read(reader, 2 * CHUNK_BYTES, 10) == scene.content[2 * CHUNK_BYTES :][:10]
    bench.store.objects[pack] = whole
    reader.require_all()
    assert scene.target.read_bytes() == scene.content


def test_a_chunk_that_another_one_of_the_request_is_encoded_against_comes_as_well(bench: Bench) -> None:
    values = np.random.default_rng(1).normal(size=CHUNK_BYTES // 16).astype(np.float32)
    drifted = (values * np.float32(1.0001)).tobytes()
    scene = Scene(bench, values.tobytes())
    (bench.source / "file").write_bytes(drifted)
    base, extent = scene.tree[b"file"].extents[0], bench.history().tree(bench.save())[b"file"].extents[0]
    assert isinstance(extent, Chunk)
    assert extent.base == base
    entry = replace(scene.tree[b"file"], extents=(extent, base), size_bytes=2 * len(drifted))
    scene.filling = scene.make(entry)
    scene.reader().require_all()
    assert scene.target.read_bytes() == drifted + values.tobytes()


def test_a_full_disk_is_said_to_the_reader(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(bench, os.urandom(1000))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CkptfsError) as caught:
        scene.reader().require(0, 10)
    assert caught.value.errno == 28


def test_a_program_that_is_to_end_waits_no_longer(bench: Bench) -> None:
    scene = Scene(bench, os.urandom(1000))
    gate, interrupts, ended = Gate(scene), Interrupts(), threading.Event()

    def serve() -> None:
        with interrupts.serving(7, 0), pytest.raises(InterruptedError):
            scene.reader().require(0, 10)
        ended.set()

    thread = threading.Thread(target=serve)
    thread.start()
    wait_until(lambda: gate.waiting == 1, 10, "it waits")
    interrupts.interrupt(7)
    assert ended.wait(5)
    gate.open()
    thread.join(10)


def test_of_a_suspect_file_the_chunks_that_are_right_stay_and_holes_are_emptied(bench: Bench) -> None:
    content = bytearray(os.urandom(4 * CHUNK_BYTES))
    (bench.source / "sparse").write_bytes(content)
    with (bench.source / "sparse").open("r+b") as file:
        file.truncate(0)
        file.truncate(len(content))
        file.write(content[: 2 * CHUNK_BYTES])
    content[2 * CHUNK_BYTES :] = bytes(2 * CHUNK_BYTES)
    scene = Scene(bench, b"other")
    scene.target.write_bytes(b"wrong" + content[5:-5] + b"wrong")
    scene.filling = scene.make(scene.tree[b"sparse"], suspect=True)
    scene.reader().require_all()
    assert scene.target.read_bytes() == content
    assert scene.gets == 1
    assert scene.queue.fetched_bytes == CHUNK_BYTES


def test_nothing_is_written_to_a_file_that_is_the_programs(bench: Bench) -> None:
    scene = Scene(bench, os.urandom(1000))
    gate = Gate(scene)
    thread = threading.Thread(target=scene.reader().require, args=(0, 1000))
    thread.start()
    wait_until(lambda: gate.waiting == 1, 10, "it waits")
    scene.filling.stop()
    os.ftruncate(scene.filling.fd, 0)
    scene.filling.close()
    thread.join(10)
    gate.open()
    scene.queue.ask([(scene.make(replace(scene.tree[b"file"])), 0)], Priority.PREFETCH)
    wait_until(lambda: scene.queue.fetched_bytes >= 1000, 10, "it came")
    time.sleep(0.05)
    assert not scene.filling.is_filled


class Listed:
    """Files for a Prefetch, that writes down what it begins."""

    def __init__(self, scene: Scene, entries: dict[bytes, Entry]) -> None:
        self._scene = scene
        self._entries = entries
        self._made: dict[bytes, Filling] = {}
        self.begun: list[bytes] = []

    def waiting(self) -> list[tuple[bytes, bytes]]:
        return [(path, path) for path in self._entries]

    def begin(self, key: object) -> Filling | None:
        assert isinstance(key, bytes)
        filling = self._made.setdefault(key, self._scene.make(self._entries[key]))
        if filling.is_filled or not filling.join():
            return None
        if key not in self.begun:
            self.begun.append(key)
        return filling


@pytest.fixture
def prefetching() -> Iterator[Callable[[Prefetch], None]]:
    """Runs one."""
    begun: list[tuple[Prefetch, threading.Thread]] = []

    def start(prefetch: Prefetch) -> None:
        thread = threading.Thread(target=prefetch.run)
        begun.append((prefetch, thread))
        thread.start()

    yield start
    for prefetch, thread in begun:
        prefetch.stop()
        thread.join(10)


def test_what_is_fetched_ahead_follows_the_reader_in_the_order_of_the_last_time(
    bench: Bench, prefetching: Callable[[Prefetch], None]
) -> None:
    names = [b"a", b"b", b"c", b"d", b"e"]
    scene = Scene(bench, b"-", **{name.decode(): os.urandom(3 * CHUNK_BYTES) for name in names})
    files = Listed(scene, {name: scene.tree[name] for name in names})
    prefetch = Prefetch(files, scene.queue, {b"d": 0, b"b": 1}, lambda: 1 << 40)
    prefetch.follow(b"b")
    prefetching(prefetch)
    wait_until(lambda: len(files.begun) == 5, 10, "all are fetched")
    assert files.begun == [b"b", b"a", b"c", b"e", b"d"]


def test_what_is_fetched_ahead_stops_where_there_is_no_more_room(
    bench: Bench, prefetching: Callable[[Prefetch], None]
) -> None:
    names = [b"%d" % number for number in range(8)]
    scene = Scene(bench, b"-", **{name.decode(): os.urandom(2 * CHUNK_BYTES) for name in names})
    files = Listed(scene, {name: scene.tree[name] for name in names})
    limit = 8 * CHUNK_BYTES
    prefetching(Prefetch(files, scene.queue, {}, lambda: limit - scene.queue.fetched_bytes))
    wait_until(lambda: scene.queue.fetched_bytes >= limit, 10, "what there is room for comes")
    time.sleep(0.2)
    assert scene.queue.fetched_bytes == limit


def test_what_is_fetched_ahead_goes_on_when_a_store_that_was_away_is_back(
    bench: Bench, prefetching: Callable[[Prefetch], None], caplog: pytest.LogCaptureFixture
) -> None:
    names = [b"%d" % number for number in range(8)]
    scene = Scene(bench, b"-", **{name.decode(): os.urandom(2 * CHUNK_BYTES) for name in names})
    asked_s: list[float] = []
    is_away = True

    def answer(operation: str, key: str) -> None:
        if operation == "get" and is_away:
            asked_s.append(time.monotonic())
            raise StoreUnavailableError("away")

    scene.store.before_request = answer
    files = Listed(scene, {name: scene.tree[name] for name in names})
    prefetching(Prefetch(files, scene.queue, {}, lambda: 1 << 40, pause_s=0.3))
    # within a request's own patience of 0.1 s it is asked again sooner
    wait_until(lambda: any(later - earlier > 0.2 for earlier, later in pairwise(asked_s)), 30, "it is asked again")
    is_away = False
    wait_until(lambda: scene.queue.fetched_bytes == len(names) * 2 * CHUNK_BYTES, 30, "all come")
    # however often it was asked for
    assert [record.levelname for record in caplog.records if "prefetch" in record.message] == ["WARNING"]


def test_two_processes_fill_one_file_of_old_versions(bench: Bench, tmp_path: Path) -> None:
    scene = Scene(bench, os.urandom(3 * CHUNK_BYTES))
    entry, directory = scene.tree[b"file"], tmp_path / "contents"
    directory.mkdir()
    one, other = (ContentCache(directory, scene.queue) for _ in range(2))
    readers = []
    for cache, offset in ((one, 0), (other, CHUNK_BYTES)):
        fd, reader = cache.open(entry)
        assert reader is not None
        reader.require(offset, offset + 10)
        assert os.pread(fd, 10, offset) == scene.content[offset:][:10]
        readers.append((fd, reader))
    for fd, reader in readers:
        reader.require_all()
        assert os.pread(fd, len(scene.content), 0) == scene.content
        reader.close()
        os.close(fd)
    assert [path.stat().st_size for path in directory.iterdir()] == [len(scene.content)]
    assert scene.queue.fetched_bytes <= 5 * CHUNK_BYTES
    fd, reader = one.open(entry)
    assert reader is None
    os.close(fd)


def test_after_a_restart_of_the_machine_kept_files_are_checked_chunk_by_chunk(bench: Bench, tmp_path: Path) -> None:
    scene = Scene(bench, os.urandom(3 * CHUNK_BYTES))
    entry, directory, mark = scene.tree[b"file"], tmp_path / "contents", tmp_path / "contents-boot"
    directory.mkdir()

    def begin(boot: str) -> tuple[int, Reader | None]:
        doubt_after_restart(directory, mark, boot)
        return ContentCache(directory, scene.queue).open(entry)

    fd, reader = begin("one")
    assert reader is not None
    reader.require_all()
    reader.close()
    (kept,) = directory.iterdir()
    # the disk has the file's name and size, and half of its bytes
    with kept.open("r+b") as file:
        file.truncate(CHUNK_BYTES)
        file.truncate(entry.size_bytes)
    before = scene.queue.fetched_bytes
    for boot, is_whole in (("one", True), ("two", False), ("two", True)):
        os.close(fd)
        fd, reader = begin(boot)
        assert (reader is None) == is_whole, boot
        if reader is not None:
            reader.require_all()
            reader.close()
            assert os.pread(fd, entry.size_bytes, 0) == scene.content
    os.close(fd)
    assert scene.queue.fetched_bytes - before == 2 * CHUNK_BYTES
    mark.unlink()  # those of a version before this one
    fd, reader = begin("two")
    assert reader is not None
    reader.close()
    os.close(fd)
