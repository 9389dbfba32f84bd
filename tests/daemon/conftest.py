"""Daemons for tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.running import RunningDaemon


@pytest.fixture(autouse=True, scope="package")
def plain_environment() -> Iterator[None]:
    """Keep the settings of whoever runs the tests out of them, and a daemon of this machine."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("CKPTFS_") and not name.startswith("CKPTFS_TEST_"):
            del os.environ[name]
    os.environ["CKPTFS_DAEMON_SOCKET"] = ""
    os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., RunningDaemon]]:
    """Makes daemons, which are to be started, below tmp_path. They end before the test's time-out."""
    made: list[RunningDaemon] = []

    def make(name: str = "d", **options: str) -> RunningDaemon:
        made.append(RunningDaemon(tmp_path / name, 110.0, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()
