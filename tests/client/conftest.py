"""Mounts for the tests of the client and of what is built on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Mount, Mounts


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the job that the tests may be part of out of them."""
    for name in ("CKPTFS_DIR", "CKPTFS_RANKS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounts]:
    """Makes mounts of stores below tmp_path."""
    mounts = Mounts(tmp_path, 100.0)
    try:
        yield mounts
    finally:
        mounts.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all tests of a module that are content with a directory in it."""
    mounts = Mounts(tmp_path_factory.mktemp("shared"), 110.0)
    try:
        yield mounts()
    finally:
        mounts.close()
