"""Times that programs give files whose data are just coming: each chunk that is written moves the file's own mtime."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfs.cache.spares import Spares
from ckptfs.capture.changes import Changes, LinkGroups
from ckptfs.capture.gate import Gate
from ckptfs.capture.guards import Guards
from ckptfs.capture.journal import Journal
from ckptfs.errors import StoreUnavailableError
from ckptfs.format.manifest import Chunk, Entry, Kind
from ckptfs.fs.hydration.fetching import FetchQueue
from ckptfs.fs.hydration.hydrator import Hydrator, Stub
from ckptfs.fs.live import tree
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.times import NOW_NS, set_times
from ckptfs.hashing import hash_bytes
from ckptfs.transfer.fetch import Fetcher
from tests.transfer.conftest import Bench

SIZE = 4096
OLD, GIVEN = 1_111_111_111_000_000_001, 1_222_222_222_000_000_002
CONTENT = [b"1" * SIZE, b"2" * SIZE]


class Scene:
    """A live tree with one stub, `file`, of two chunks; chunks come when a test says so."""

    def __init__(self, directory: Path) -> None:
        root, spares = directory / "live", directory / "spares"
        root.mkdir()
        spares.mkdir()
        self.file = root / "file"
        self.file.write_bytes(b"")
        os.truncate(self.file, 2 * SIZE)
        os.utime(self.file, ns=(OLD, OLD))
        self.root_fd = os.open(root, os.O_RDONLY)
        gate, changes = Gate(), Changes(Journal(directory / "journal"))
        queue = FetchQueue(Fetcher(Bench(directory / "bench").store))
        hydrator = Hydrator(self.root_fd, self.root_fd, queue, gate, changes.times, lambda ino: None)
        self.live = LiveTree(
            self.root_fd,
            self.root_fd,
            spares=Spares(spares),
            gate=gate,
            changes=changes,
            links=LinkGroups(),
            guards=Guards(),
            hydrator=hydrator,
        )
        extents = tuple(Chunk(hash_bytes(data), SIZE, "p/x", 0, SIZE) for data in CONTENT)
        entry = Entry(path=b"file", kind=Kind.FILE, mode=0o600, mtime_ns=OLD, size_bytes=2 * SIZE, extents=extents)
        ino = self.file.stat().st_ino
        hydrator.add([Stub(ino, b"file", entry, OLD, suspect=False)])
        filling = hydrator.begin(ino)
        assert filling is not None
        self.filling = filling

    def come(self, index: int) -> None:
        """A chunk comes."""
        assert self.filling.claim(index)
        self.filling.deliver(index, CONTENT[index])

    def half_come(self, index: int) -> None:
        """A chunk is written, and the mtime is about to be set back."""
        assert self.filling.claim(index)
        os.pwrite(self.filling.fd, CONTENT[index], index * SIZE)
        self.filling.deliver(index, StoreUnavailableError("away"))
        assert self.file.stat().st_mtime_ns not in (OLD, GIVEN)

    @property
    def mtime_ns(self) -> int:
        return self.live.attributes(b"file").mtime_ns


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "bench").mkdir()
    scene = Scene(tmp_path)
    yield scene
    os.close(scene.root_fd)


@pytest.fixture
def then(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], threading.Thread]:
    """Has something happen right after a program's times were set, by another thread, which may have to wait."""

    def then(happens: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=happens)

        def set_and_more(fd: int, path: bytes | None, atime_ns: int | None, mtime_ns: int | None) -> None:
            set_times(fd, path, atime_ns, mtime_ns)
            thread.start()
            thread.join(0.5)

        monkeypatch.setattr(tree, "set_times", set_and_more)
        return thread

    return then


@pytest.mark.parametrize("happens", ["a chunk is written", "a chunk has come", "the last chunk has come"])
def test_an_mtime_that_is_given_while_a_chunk_comes_is_kept(
    scene: Scene, then: Callable[[Callable[[], None]], threading.Thread], happens: str
) -> None:
    if happens == "the last chunk has come":
        scene.come(0)
    action = scene.half_come if happens == "a chunk is written" else scene.come
    thread = then(lambda: action(1))
    scene.live.utimens(b"file", None, GIVEN)
    thread.join(10)
    assert scene.mtime_ns == GIVEN
    for index in (0, 1):
        if scene.filling.missing(index * SIZE, (index + 1) * SIZE):
            scene.come(index)
    assert scene.file.read_bytes() == b"".join(CONTENT)
    assert scene.mtime_ns == scene.file.stat().st_mtime_ns == GIVEN


def test_now_is_now_though_a_chunk_comes_that_sets_the_old_mtime_back(
    scene: Scene, then: Callable[[Callable[[], None]], threading.Thread]
) -> None:
    before_ns = time.time_ns()
    thread = then(lambda: scene.come(1))
    scene.live.utimens(b"file", NOW_NS, NOW_NS)
    thread.join(10)
    scene.come(0)
    # the kernel's clock for this is behind by a tick at most
    assert before_ns - 20_000_000 < scene.file.stat().st_mtime_ns <= time.time_ns()
