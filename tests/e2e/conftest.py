"""Mounts for the tests of whole stories: with processes that die, stores that go away, and other machines."""

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


@pytest.fixture
def own_seaweedfs(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """A SeaweedFS that the test may stop and start, with the environment set so that boto3 finds it."""
    with SeaweedFS() as server:
        server.create_bucket(BUCKET)
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server
