"""Mounts for the tests of whole stories: with processes that die, stores that go away, and other machines."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.seaweedfs import SeaweedFS
from tests.conftest import BUCKET
from tests.mounting import Mounts


@pytest.fixture
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounts]:
    """Makes mounts of stores below tmp_path. They end 10 s before the test's time-out: nothing hangs in them."""
    marker = request.node.get_closest_marker("timeout")
    timeout_s = float(marker.args[0]) if marker is not None and marker.args else 120.0
    mounts = Mounts(tmp_path, timeout_s - 10)
    try:
        yield mounts
    finally:
        mounts.close()


class Outage:
    """A store on a SeaweedFS that can go away and come back."""

    def __init__(self, server: SeaweedFS) -> None:
        self._server = server
        self._is_up = True
        self.url = f"s3://{BUCKET}/{secrets.token_hex(8)}"

    def begin(self) -> None:
        """The store goes away: connections are refused."""
        self._server.stop()
        self._is_up = False

    def end(self) -> None:
        """It is back, with all that it had."""
        if not self._is_up:
            self._server.start()
            self._is_up = True

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._server.pid


@pytest.fixture(scope="module")
def stoppable_seaweedfs() -> Iterator[SeaweedFS]:
    """One for the tests of a module that stop it: starting anew with data takes half the time of the first start."""
    with SeaweedFS() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture
def outage(stoppable_seaweedfs: SeaweedFS, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    """A fresh store that can go away; the environment is set so that boto3 finds it."""
    for name, value in stoppable_seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    found = Outage(stoppable_seaweedfs)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(autouse=True)
def plain_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith("CKPTFS_") and not name.startswith("CKPTFS_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
