"""A store in a directory with objects of every class, and the ways in which one of them can be damaged."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ckptfs.cache.anchors import AnchorCache
from ckptfs.errors import CkptfsError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Part
from ckptfs.store.caching import CachingStore
from ckptfs.store.open import open_store
from ckptfs.transfer.damage import DamageList
from ckptfs.transfer.heal import find_on_disk
from ckptfs.transfer.restore import restore
from ckptfs.transfer.upload import VersionUploader
from ckptfs.transfer.verify import Finding, verify
from ckptfs.versions.history import History, open_history
from ckptfs.versions.tags import set_tag
from ckptfs.versions.writer import Writer
from tests.transfer.trees import HOLDER, capture, snapshot, write_part

VERSIONS = 3
CLASSES = {"format": "format.json", "commit": "c/", "segment": "m/", "pack": "p/", "lease": "lease"}
"""What the keys of each class begin with."""

Damage = Callable[[Path, list[Path], random.Random], None]
"""Damages one object, given those of its class, the oldest first."""


@dataclass
class Stored:
    """Three versions of a directory in a file store, and the upload process's tools to make more."""

    directory: Path
    saved: dict[int, dict[bytes, Any]] = field(default_factory=dict)
    """Version to what it holds."""

    @property
    def store_directory(self) -> Path:
        return self.directory / "store"

    @property
    def live(self) -> Path:
        return self.directory / "live"

    def history(self) -> History:
        return open_history(open_store(self.store_directory.as_uri()))

    def objects(self, kind: str) -> list[Path]:
        """The files of a class, the oldest first."""
        found = [path for path in self.store_directory.rglob("*") if path.is_file()]
        named = [path for path in found if self.key(path).startswith(CLASSES[kind])]
        # the keys of later commits sort first
        return sorted(named, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def key(self, path: Path) -> str:
        return str(path.relative_to(self.store_directory))

    def copy(self, directory: Path) -> "Stored":
        shutil.copytree(self.directory, directory, symlinks=True)
        return Stored(directory, dict(self.saved))

    def writer(self) -> "Saver":
        """Take the store over, as the next session does."""
        return Saver(self)

    def verify(self) -> list[Finding]:
        """As `ckptfs verify --read-data` does, with the marks that it leaves."""
        history = self.history()
        return verify(history, history.store, read_data=True, on_damage=DamageList(history.store).add)

    def restored(self, version: int) -> dict[bytes, Any] | CkptfsError:
        """What comes back of a version, or why it does not."""
        target = self.directory / "restored"
        try:
            history = self.history()
            restore(history, history.store, history.resolve(version), target)
            return snapshot(target)
        except CkptfsError as error:
            return error
        finally:
            shutil.rmtree(target, ignore_errors=True)


class Saver:
    """Captures a live tree and uploads it, as mount and upload process do."""

    def __init__(self, stored: Stored) -> None:
        store = open_store(stored.store_directory.as_uri(), create=True)
        self.stored = stored
        self.writer = Writer.acquire(store, HOLDER, takeover=True)
        anchors = AnchorCache(stored.directory / "anchors", 1 << 40)
        self._now_s = 0.0
        self._uploader = VersionUploader(
            store,
            self.writer,
            self.writer.history,
            anchors=anchors,
            damage=DamageList(store, lambda: self._now_s),
            find=find_on_disk(stored.live, anchors),
            kept=CachingStore(store, stored.directory / "objects"),
        )

    def forget_marks(self) -> None:
        """Let so much time pass that the marks are read anew."""
        self._now_s += 3600

    def save(self, *, unchanged: bool = False) -> CommitRecord:
        """Save the live tree; unchanged: as a mount does in which nothing was written since."""
        head = self.writer.head
        version = (head.version if head is not None else 0) + 1
        root = self.stored.directory / "pending"
        pending = write_part(root, version, Part()) if unchanged else capture(self.stored.live, root, version)
        self.stored.saved[version] = snapshot(self.stored.live)
        record = self._uploader.upload(pending)
        shutil.rmtree(pending.directory)
        return record


def make(directory: Path) -> Stored:
    """Make three versions: a large file that changes in part, one that never does, small ones, a tag."""
    chance = random.Random(11)
    stored = Stored(directory)
    for name in ("live", "pending", "anchors", "objects"):
        (directory / name).mkdir(parents=True)
    (stored.live / "same").write_bytes(chance.randbytes(200_000))
    # so small a tree would have its manifest in the commit record
    with mock.patch("ckptfs.versions.parts.MAX_INLINE_BYTES", 0):
        saver = stored.writer()
        weights = bytearray(chance.randbytes(300_000))
        for version in range(1, VERSIONS + 1):
            weights[1000 * version : 1000 * version + 50] = chance.randbytes(50)
            (stored.live / "weights").write_bytes(weights)
            (stored.live / f"small-{version}").write_bytes(chance.randbytes(100 * version))
            saver.save()
    set_tag(stored.history().store, "best", 2)
    return stored


def flip(path: Path, others: list[Path], chance: random.Random) -> None:
    body = bytearray(path.read_bytes())
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    path.write_bytes(body)


def truncate(path: Path, others: list[Path], chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def delete(path: Path, others: list[Path], chance: random.Random) -> None:
    path.unlink()


def swap(path: Path, others: list[Path], chance: random.Random) -> None:
    other = chance.choice([each for each in others if each != path])
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)


def replace_by_an_older(path: Path, others: list[Path], chance: random.Random) -> None:
    path.write_bytes(others[0].read_bytes())


WAYS: dict[str, Damage] = {
    "flip": flip,
    "truncate": truncate,
    "delete": delete,
    "swap": swap,
    "replace by an older": replace_by_an_older,
}


def cases(stored: Stored) -> Iterator[tuple[str, str, int]]:
    """Yield every class, way and number of an object that make a damage."""
    for kind in CLASSES:
        count = len(stored.objects(kind))
        for way in WAYS:
            for index in range(count):
                # one that is alone has no other, and the oldest no older
                if way == "swap" and count == 1:
                    continue
                if way == "replace by an older" and index == 0:
                    continue
                yield kind, way, index
