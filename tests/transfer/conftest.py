"""A source tree, a place for pending versions and a store in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.cache.anchors import AnchorCache
from ckptfs.format.commit import CommitRecord
from ckptfs.transfer.upload import VersionUploader
from ckptfs.versions.history import History, open_history
from ckptfs.versions.writer import Writer
from tests.transfer.trees import acquire, capture
from tests.versions.memory_store import MemoryStore


class Bench:
    """One source tree and one store."""

    def __init__(self, root: Path) -> None:
        self.source = root / "source"
        self.pending = root / "pending"
        self.target = root / "target"
        self.anchors = root / "anchors"
        self.source.mkdir()
        self.pending.mkdir()
        self.anchors.mkdir()
        self.store = self.make_store()
        self.writer: Writer = acquire(self.store)
        self.progress: list[tuple[int, int]] = []
        self.uploader = self.new_uploader()
        self.version = 0

    def make_store(self) -> MemoryStore:
        return MemoryStore()

    def new_uploader(self, *, anchor_bytes: int = 1 << 40) -> VersionUploader:
        """As after a restart of the upload process."""
        return VersionUploader(
            self.store,
            self.writer,
            self.writer.history,
            anchors=AnchorCache(self.anchors, anchor_bytes),
            on_progress=lambda *row: self.progress.append(row),
        )

    def save(self, *gone: bytes, change: Callable[[Path], None] | None = None) -> CommitRecord:
        """Capture the whole source tree as the next version, let something happen, and upload it."""
        self.version += 1
        pending = capture(self.source, self.pending, self.version, gone=gone)
        if change is not None:
            change(pending.directory)
        return self.uploader.upload(pending)

    def history(self) -> History:
        return open_history(self.store)

    def packs(self) -> list[str]:
        return sorted(key for key in self.store.objects if key.startswith("p/"))

    def damage(self, key: str, change: Callable[[bytearray], None]) -> None:
        body = bytearray(self.store.objects[key])
        change(body)
        self.store.objects[key] = bytes(body)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
