"""What the process that takes a read-only mount over shows, when the version was pruned: without a kernel."""

from pathlib import Path
from typing import cast

import pytest

from ckptfs.errors import NoSuchVersionError
from ckptfs.fs.options import MountOptions
from ckptfs.fs.reading import ReadingMount
from ckptfs.fs.transport.handover import Connection
from ckptfs.versions.prune import Pruner
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry
from tests.damage.scene import Stored, make


class Shown:
    """What the process before said."""

    def __init__(self, version: int) -> None:
        self.is_mounted = bool(version)
        self.shown_version = version

    def shows(self, version: int) -> None:
        self.shown_version = version


class Readers:
    """Processes that serve one mount of version 1, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.stored = make(directory / "stored")
        self.directory = directory

    def begin(self, *, after: int, cache: str = "cache") -> ReadingMount:
        options = MountOptions(
            store=self.stored.store_directory.as_uri(),
            mountpoint=self.directory / "mount",
            cache_dir=self.directory / cache,
            version="1",
            trust_cache_dir=True,
        )
        return ReadingMount(options, cast(Connection, Shown(after)))

    def prune(self) -> None:
        history = self.stored.history()
        assert Pruner(history, Retry(), host="cleaner", pid=1).prune(Retention(keep_last=1)).dropped == [1]


@pytest.fixture
def readers(tmp_path: Path) -> Readers:
    return Readers(tmp_path)


def names(mount: ReadingMount) -> list[bytes]:
    return sorted(row.name for row in mount.operations.listing(b""))


def everything(stored: Stored) -> list[bytes]:
    return sorted(path for path in stored.saved[1] if path)


def test_it_shows_the_names_that_local_disk_knows_and_says_that_the_version_was_pruned(readers: Readers) -> None:
    first = readers.begin(after=0)
    assert names(first) == everything(readers.stored)
    first.finish()
    readers.prune()
    second = readers.begin(after=1)
    assert names(second) == everything(readers.stored)
    assert "version 1, which is shown here, was pruned" in str(second.status()["error"])
    assert second.status()["version"] == 1
    second.finish()


def test_it_answers_also_where_nothing_of_the_version_is_left(readers: Readers) -> None:
    readers.prune()
    second = readers.begin(after=1, cache="another")
    assert names(second) == []
    assert "version 1, which is shown here, was pruned" in str(second.status()["error"])
    second.finish()


def test_a_version_that_was_pruned_is_not_mounted_anew(readers: Readers) -> None:
    readers.prune()
    with pytest.raises(NoSuchVersionError):
        readers.begin(after=0)
