"""A configuration that changes while programs are at work: what is not concerned is not touched."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import RunningDaemon, needs_passthrough
from tests.e2e.programs import Program

pytestmark = [pytest.mark.fuse]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One for all tests here, with a mount that programs work in all the time."""
    running = RunningDaemon(tmp_path_factory.mktemp("reload"), 280.0)
    try:
        running.describe("busy")
        yield running.start()
    finally:
        running.close()


@pytest.fixture(autouse=True)
def untouched(daemon: RunningDaemon, tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, the programs in the other mount meet no error, and its processes stay what they are."""
    before = daemon.pids("busy")
    top = daemon.place("busy") / tmp_path.name
    top.mkdir()
    programs = [Program(kind, top / kind, 1, tmp_path / kind) for kind in ("write", "name", "save")]
    try:
        yield
        for program in programs:
            program.stop()
        assert daemon.pids("busy") == before
    finally:
        for program in programs:
            program.kill()


def test_a_mount_that_is_added_comes_up(daemon: RunningDaemon) -> None:
    place = daemon.describe("added")
    daemon.wait_mounted("added")
    (place / "model").write_bytes(b"weights")
    assert (place / "model").read_bytes() == b"weights"
    assert daemon.lines("took the configuration")[-1]["added"] == "added"


def test_a_mount_that_is_removed_is_saved_drained_and_goes(daemon: RunningDaemon) -> None:
    place = daemon.describe("gone", "save-on-exit = true")
    daemon.wait_mounted("gone")
    (place / "model").write_bytes(b"weights")
    daemon.file_of("gone").unlink()
    daemon.wait(lambda: daemon.ask("GET", "/v1/mounts/gone")[0] == 404, "the mount has ended")
    assert os.listdir(place) == []
    (stopped,) = [line for line in daemon.lines("stopped mount=") if line["mount"] == "gone"]
    assert stopped["left_versions"] == "0"
    assert [line["version"] for line in daemon.lines("committed") if line["mount"] == "gone"] == ["1"]


@needs_passthrough
def test_settings_of_the_serving_process_change_under_open_files(daemon: RunningDaemon) -> None:
    place = daemon.describe("tuned")
    before = daemon.wait_mounted("tuned")
    (place / "model").write_bytes(b"weights")
    with (place / "model").open("r+b", buffering=0) as file:
        daemon.describe("tuned", 'max-pending-bytes = "1G"')
        daemon.wait(lambda: bool(daemon.lines("went on with mount=tuned")), "another process has taken over")
        assert file.read() == b"weights"
        file.write(b", more")
        assert os.fstat(file.fileno()).st_size == len(b"weights, more")
    after = daemon.wait_mounted("tuned")
    assert after["pid"] != before["pid"]
    assert after["epoch"] == before["epoch"], "no other writer has come"
    assert daemon.lines("changing mount=tuned")[-1]["settings"] == "max_pending_bytes"


def test_what_the_kernel_knows_of_a_mount_changes_by_mounting_anew(daemon: RunningDaemon) -> None:
    place = daemon.describe("shown", "save-on-exit = true")
    before = daemon.wait_mounted("shown")
    (place / "model").write_bytes(b"weights")
    daemon.describe("shown", "read-only = true")
    daemon.wait(lambda: len(daemon.lines("mounted mount=shown")) == 2, "it is mounted anew")
    after = daemon.wait_mounted("shown")
    assert (before["read_only"], after["read_only"]) == (False, True)
    assert (place / "model").read_bytes() == b"weights"
    with pytest.raises(OSError, match="Read-only"):
        (place / "other").write_bytes(b"")


def test_a_configuration_is_followed_into_a_directory_that_takes_the_place_of_its_own(daemon: RunningDaemon) -> None:
    directory = daemon.config.parent
    following = directory.with_name("etc-next")
    shutil.copytree(directory, following)
    directory.rename(directory.with_name("etc-before"))
    following.rename(directory)
    daemon.describe("moved")
    daemon.wait_mounted("moved")
    daemon.file_of("moved").unlink()
    daemon.wait(lambda: daemon.ask("GET", "/v1/mounts/moved")[0] == 404, "the mount has ended")


def test_a_broken_file_changes_nothing_and_is_named_with_its_line_until_it_is_repaired(daemon: RunningDaemon) -> None:
    place = daemon.describe("fragile")
    before = daemon.wait_mounted("fragile")["pid"]
    daemon.wait(lambda: daemon.ask("GET", "/healthz")[0] == 200, "all is well")
    daemon.describe("fragile", 'drain-timeout = "soon"')
    daemon.describe("late")
    daemon.wait(lambda: daemon.ask("GET", "/healthz")[0] == 503, "the error is seen")
    said = daemon.ask("GET", "/v1/status")[1]["config_error"]
    assert said.startswith(f"{daemon.file_of('fragile')}:4: mounts.fragile.drain-timeout: 'soon' is not a duration")
    assert daemon.lines("kept the running configuration")[-1]["error"] == said
    assert daemon.status_of("fragile")["pid"] == before
    assert daemon.ask("GET", "/v1/mounts/late")[0] == 404
    status, answer = daemon.ask("POST", "/v1/reload")
    assert (status, answer["error"]) == (409, said)

    daemon.describe("fragile")
    daemon.wait_mounted("late")
    assert daemon.status_of("fragile")["pid"] == before, "it is what it was all the time"
    assert os.listdir(place) == []
    daemon.wait(lambda: daemon.ask("GET", "/healthz")[0] == 200, "all is well again")
