"""Live mounts for the tests of the filesystem: real FUSE mounts over a store in a directory, or over SeaweedFS, through
every transport that works on this machine.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.fs.touching import Counter
from tests.mounting import Mount, Mounts, let_others_in

# the form of the log's lines: date, time, level
_BAD_LINE = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback ")

# since a test last began in it: a module of many takes as long as the machine is busy
_SHARED_FOR_S = 300.0

TRANSPORTS = ["fusepy"] if passthrough_obstacle() else ["fusepy", "passthrough"]


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The way of requests from the kernel."""
    return str(request.param)


@pytest.fixture
def mount(request: pytest.FixtureRequest, tmp_path: Path, transport: str) -> Iterator[Mounts]:
    """Makes mounts below tmp_path. They end before the test's time-out, so that nothing hangs in them."""
    yield from _mounts(tmp_path, request, transport, 110.0)


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Mount]:
    """One mount for all tests of a module that leave nothing behind but files."""
    for mounts in _mounts(tmp_path_factory.mktemp("shared"), request, transport, _SHARED_FOR_S):
        yield mounts(allow_other=True)


@pytest.fixture
def place(shared: Mount, request: pytest.FixtureRequest) -> Path:
    """A new directory in the shared mount."""
    shared.live_on()
    path = shared.root / re.sub(r"[^\w+]+", "-", request.node.name)[:100]
    path.mkdir()
    return path


@pytest.fixture
def counter(shared: Mount, place: Path) -> Counter:
    """Counts the versions that a test makes in its place, where there is something to save."""
    (place / "model").write_bytes(os.urandom(1000))
    return Counter(shared)


@pytest.fixture(scope="session")
def toucher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C program that touches in many ways."""
    program = tmp_path_factory.mktemp("c") / "toucher"
    source = Path(__file__).with_name("toucher.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, source], check=True, timeout=60)
    return program


def _mounts(directory: Path, request: pytest.FixtureRequest, transport: str, deadline_s: float) -> Iterator[Mounts]:
    let_others_in(directory)
    mounts = Mounts(directory, deadline_s, transport=transport)
    try:
        yield mounts
    finally:
        mounts.close()
    if request.node.get_closest_marker("expects_errors") is None:
        bad = [line for log in directory.glob("*/*/mount.log") for line in bad_lines(log)]
        assert not bad, f"unexpected lines in mount.log: {bad}"


def bad_lines(log: Path) -> list[str]:
    """Return the lines of a mount's log that no test expects unless it says so."""
    return [line for line in log.read_text(errors="replace").splitlines() if _BAD_LINE.match(line)]
