"""What becomes of mounts when processes die, the daemon among them, and when it is told to end."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.cli import daemon_socket
from tests.cli.scene import ckptfs
from tests.daemon.running import RunningDaemon, needs_passthrough
from tests.e2e.programs import Program
from tests.mounting import wait_until

pytestmark = [pytest.mark.fuse]
MakeDaemon = Callable[..., RunningDaemon]


def test_a_mount_goes_on_without_the_daemon_and_the_next_one_finds_it(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    place = daemon.describe("llama")
    daemon.start()
    before = daemon.pids("llama")
    programs = [Program(kind, place / kind, 1, tmp_path / kind) for kind in ("write", "name", "read")]
    daemon.kill()
    (place / "meanwhile").write_bytes(b"weights")
    daemon.start()
    for program in programs:
        program.stop()
    assert daemon.pids("llama") == before
    assert daemon.mount("llama")["keeper"] == before[0]
    assert daemon.ask("POST", "/v1/mounts/llama/save", {"wait": True})[1]["state"] == "durable"
    assert daemon.stop() == 0
    assert os.listdir(place) == []


def test_a_mount_that_was_removed_while_no_daemon_ran_is_drained_by_the_next(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    place = daemon.describe("llama", "save-on-exit = true")
    daemon.start()
    (place / "model").write_bytes(b"weights")
    daemon.kill()
    daemon.file_of("llama").unlink()
    daemon.start()
    assert os.listdir(place) == []
    assert daemon.lines("stopped mount=llama")[0]["left_versions"] == "0"
    assert daemon.lines("committed version=1")


@needs_passthrough
def test_open_files_outlive_the_keeper_and_the_server_at_once(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    place = daemon.describe("llama")
    daemon.start()
    assert daemon.mount("llama")["connection_held"]
    programs = [Program(kind, place / kind, 1, tmp_path / kind) for kind in ("write", "name", "read")]
    with (place / "model").open("w+b", buffering=0) as file:
        file.write(b"weights")
        for times in (1, 2):
            before = daemon.pids("llama")
            for pid in before if times == 1 else before[:1]:
                os.kill(pid, signal.SIGKILL)
            daemon.wait(lambda times=times: len(daemon.lines("went on with")) == times, "another keeper has taken over")  # type: ignore[misc]
            assert not set(before) & set(daemon.pids("llama"))
            assert os.pread(file.fileno(), 100, 0) == b"weights"
    for program in programs:
        program.stop()


@needs_passthrough
def test_a_mount_that_a_symlink_leads_to_is_kept_up_as_any_other(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    place = daemon.describe("llama")
    link = daemon.directory / "link"
    link.symlink_to(place.parent)
    file_of = daemon.file_of("llama")
    file_of.write_text(file_of.read_text().replace(os.fspath(place), os.fspath(link / "llama")))
    daemon.start()
    (place / "model").write_bytes(b"weights")
    with (place / "model").open("rb", buffering=0) as file:
        for pid in daemon.pids("llama"):
            os.kill(pid, signal.SIGKILL)
        daemon.wait(lambda: bool(daemon.lines("went on with mount=llama")), "a keeper has gone on")
        assert file.read() == b"weights"
    socket_path = os.fspath(daemon.runtime / "ckptfsd.sock")
    status = ckptfs("status", link / "llama", "--json", env={"CKPTFS_DAEMON_SOCKET": socket_path}).json
    assert (status["mountpoint"], status["daemon"]["state"]) == (os.fspath(place), "mounted")
    assert daemon.stop() == 0
    assert not os.path.ismount(place)


def test_what_cannot_be_mounted_is_tried_again_and_hinders_no_other(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.describe("good")
    place = daemon.describe("bad", make=False)
    daemon.start()
    daemon.wait_mounted("good")
    told = daemon.mount("bad")
    assert (told["state"], told["error"]) in (
        ("waiting", f"{place} does not exist"),
        ("starting", f"{place} does not exist"),
    )
    assert daemon.ask("GET", "/healthz")[0] == 503
    place.mkdir()
    daemon.wait_mounted("bad")
    assert daemon.mount("bad")["error"] is None
    assert daemon.ask("GET", "/healthz")[0] == 200


def test_somebody_who_unmounts_by_hand_gets_the_mount_back(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    place = daemon.describe("llama")
    daemon.start()
    os.system(f"umount {place}")
    daemon.wait(lambda: len(daemon.lines("mounted mount=llama")) == 2, "it is mounted again")
    daemon.wait_mounted("llama")


def test_stopping_waits_for_versions_and_says_what_is_left(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    slow = daemon.describe("slow", 'upload-limit = "100K"', 'drain-timeout = "1s"')
    fast = daemon.describe("fast", "save-on-exit = true")
    daemon.start()
    (slow / "model").write_bytes(os.urandom(2_000_000))
    (slow / ".save").touch()
    (fast / "model").write_bytes(os.urandom(2_000_000))
    assert daemon.stop() == 1
    stopped = {line["mount"]: line["left_versions"] for line in daemon.lines("stopped mount=")}
    assert stopped == {"slow": "1", "fast": "0"}
    last = daemon.lines("stopped with versions that are not durable")[0]
    assert (last["mounts"], last["left_versions"]) == ("slow", "1")
    assert int(last["left_bytes"]) >= 2_000_000
    assert os.listdir(slow) == os.listdir(fast) == []

    daemon.describe("slow")
    daemon.start()
    daemon.wait(lambda: daemon.status_of("slow")["pending"] == [], "the next one has finished it")
    assert daemon.status_of("slow")["version"] == 1


def test_a_mount_that_does_not_end_is_taken_away_when_its_time_is_over(make_daemon: MakeDaemon) -> None:
    impatient = "import ckptfsd.supervised_mount as m; m._STOP_MARGIN_S = 1.0; from ckptfsd.main import main; main()"
    daemon = make_daemon()
    place = daemon.describe("llama", 'drain-timeout = "1s"')
    daemon.start(program=["-c", impatient])
    (place / "model").write_bytes(b"weights")
    os.kill(daemon.pids("llama")[1], signal.SIGSTOP)
    assert daemon.stop() == 0
    assert daemon.lines("ended a mount that did not end")[0]["mount"] == "llama"
    assert os.listdir(place) == []


def test_sigusr1_saves_every_mount(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    places = [daemon.describe(name) for name in ("a", "b")]
    daemon.start()
    for place in places:
        (place / "model").write_bytes(b"weights")
    daemon.signal(signal.SIGUSR1)
    daemon.wait(lambda: len(daemon.lines("saved mount=")) == 2, "both are saved")
    assert [daemon.status_of(name)["version"] for name in ("a", "b")] == [1, 1]


@needs_passthrough
def test_a_server_that_hangs_is_replaced_under_open_files(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(daemon='hang-timeout = "1s"')
    place = daemon.describe("llama")
    daemon.start()
    daemon.wait(lambda: daemon.mount("llama")["status"] is not None, "it has been seen")
    _, server = daemon.pids("llama")
    with (place / "model").open("w+b", buffering=0) as file:
        file.write(b"weights")
        os.kill(server, signal.SIGSTOP)
        daemon.wait(lambda: bool(daemon.lines("replaced the server")), "it has been noticed")
        assert os.pread(file.fileno(), 100, 0) == b"weights"
        assert daemon.pids("llama")[1] != server


def test_two_daemons_do_not_share_a_runtime_directory(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.describe("llama")
    daemon.start()
    before = daemon.pids("llama")
    with pytest.raises(AssertionError, match="another ckptfsd"):
        make_second(daemon).start()
    assert daemon.pids("llama") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories away")
def test_a_runtime_directory_that_somebody_else_could_exchange_is_refused(
    make_daemon: MakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make_daemon()
    daemon.runtime.mkdir()
    for given_away in (daemon.runtime, daemon.runtime.parent):
        os.chown(given_away, 12345, 12345)
        with pytest.raises(AssertionError, match="belongs to another user"):
            daemon.start()
        os.chown(given_away, 0, 0)

    # nor do the commands ask whoever listens there
    stranger = tmp_path / "ckptfsd.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(stranger))
        monkeypatch.setattr(daemon_socket, "default_runtime_directory", lambda: tmp_path)
        monkeypatch.delenv("CKPTFS_DAEMON_SOCKET")
        assert daemon_socket.find_daemon() is not None
        os.chown(stranger, 12345, 12345)
        assert daemon_socket.find_daemon() is None


def make_second(first: RunningDaemon) -> RunningDaemon:
    """Another with the configuration of the first."""
    second = RunningDaemon(first.directory / "second", 60.0)
    second.config = first.config
    second._watchdog.cancel()
    return second


@needs_passthrough
@pytest.mark.parametrize("place_of_key", ["file", "environment"])
def test_encrypted_stores_are_kept_up_by_whoever_takes_over(
    make_daemon: MakeDaemon, tmp_path: Path, place_of_key: str
) -> None:
    key = tmp_path / "key"
    key.write_text("the-key-of-the-store\n")
    lines = {
        "file": [f'key-file = "{key}"'],
        "environment": ["[mounts.llama.environment]", 'CKPTFS_KEY = "the-key-of-the-store"'],
    }[place_of_key]
    daemon = make_daemon()
    place = daemon.describe("llama", "encrypt = true", *lines)
    daemon.start()
    (place / "model").write_bytes(b"PLAIN weights")
    before = daemon.pids("llama")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: daemon.pids("llama") not in (before, []), 30, "another keeper goes on")
    # what it reads may still be what the kernel has kept
    daemon.wait_mounted("llama")
    assert (place / "model").read_bytes() == b"PLAIN weights"
    assert daemon.ask("POST", "/v1/mounts/llama/save", {"wait": True})[1]["state"] == "durable"
    for pid in daemon.pids("llama"):
        assert b"the-key" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert daemon.stop() == 0
    objects = [path for path in (daemon.directory / "store-llama").rglob("*") if path.is_file()]
    assert len(objects) >= 4
    assert not any(b"PLAIN" in path.read_bytes() for path in objects)
