"""What the daemon and its service manager say to each other; the latter is a socket that does what systemd does."""

import array
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfs import service_manager
from tests.daemon.running import RunningDaemon, needs_passthrough
from tests.e2e.programs import Program

_WITH_DESCRIPTORS = """
import os, sys
fds, words = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2:]
moved = [os.dup(fd) for fd in fds]
high = [os.dup2(fd, 200 + number) for number, fd in enumerate(moved)]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
os.closerange(3 + len(high), 1000)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high))}
os.execv(words[0], words)
"""


class ServiceManager:
    """Listens on $NOTIFY_SOCKET, and keeps descriptors."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self.said: list[str] = []
        self.kept: list[tuple[str, int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while data := self._hear():
            self.said += data.decode().splitlines()

    def _hear(self) -> bytes:
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(64))
        lines = data.decode().splitlines()
        name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "")
        if "FDSTORE=1" in lines:
            for _, _, content in ancillary:
                self.kept += [(name, fd) for fd in array.array("i", content)]
        if "FDSTOREREMOVE=1" in lines:
            for kept in [kept for kept in self.kept if kept[0] == name]:
                self.kept.remove(kept)
                os.close(kept[1])
        return data

    def close(self) -> None:
        """Let go of everything."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
        for _, fd in self.kept:
            os.close(fd)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    found = ServiceManager(tmp_path / "notify")
    yield found
    found.close()


@needs_passthrough
@pytest.mark.fuse
def test_a_mount_outlives_the_daemon_and_all_its_processes_at_once(
    make_daemon: Callable[..., RunningDaemon], manager: ServiceManager, tmp_path: Path
) -> None:
    daemon = make_daemon()
    place = daemon.describe("llama")
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    daemon.start(env=env)
    before = daemon.pids("llama")
    roles = ["device.llama", "ledger-a.llama", "ledger-b.llama", "lock.llama", "shared.llama"]
    daemon.wait(lambda: sorted(name for name, _ in manager.kept) == roles, "the connection is kept")
    daemon.wait(lambda: manager.said[-2:] == ["READY=1", "STATUS=1 of 1 mounted"], "it is said to be ready")
    programs = [Program(kind, place / kind, 1, tmp_path / kind) for kind in ("write", "name", "read")]

    daemon.kill()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _, fd in manager.kept:
        os.set_inheritable(fd, True)
    names = ":".join(name for name, _ in manager.kept)
    fds = ",".join(str(fd) for _, fd in manager.kept)
    daemon.start(env=env | {"LISTEN_FDNAMES": names}, through=[sys.executable, "-c", _WITH_DESCRIPTORS, fds])
    assert daemon.lines("went on with mount=llama")
    assert not set(before) & set(daemon.pids("llama"))
    for program in programs:
        program.stop()

    assert daemon.stop() == 0
    daemon.wait(lambda: manager.kept == [], "what has ended is not held")
    assert "STOPPING=1" in manager.said
    assert os.listdir(place) == []


def test_descriptors_of_the_service_manager_are_taken_once_and_only_by_whom_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "device.a:lock.a")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert service_manager.take_stored_descriptors() == []
    assert "LISTEN_FDS" not in os.environ


def test_without_a_service_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not service_manager.notify("READY=1")
    assert not service_manager.is_being_restarted()
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    assert not service_manager.notify("READY=1")


def test_the_watchdog_is_for_the_process_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert service_manager.watchdog_s() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert service_manager.watchdog_s() is None
