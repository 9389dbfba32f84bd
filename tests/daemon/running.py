"""A ckptfsd for tests: a process of its own with a configuration, ended with all its mounts whatever happens."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ckptfs.fs import supervised
from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.mounting import clear_away, wait_until

needs_passthrough = pytest.mark.skipif(
    passthrough_obstacle() is not None, reason=f"passthrough cannot work: {passthrough_obstacle()}"
)
"""Only with it is there a connection that can be handed over."""
_TIMEOUT_S = 60.0


class RunningDaemon:
    """One daemon, with everything below a directory.

    Args:
        directory: Its own.
        deadline_s: When its mounts are killed, so that nothing hangs in them.
        daemon: Lines of [daemon].
        defaults: Lines of [defaults].
    """

    def __init__(self, directory: Path, deadline_s: float, daemon: str = "", defaults: str = "") -> None:
        self.directory = directory
        self.config = directory / "etc" / "ckptfs.toml"
        self.conf_d = self.config.parent / "conf.d"
        self.conf_d.mkdir(parents=True)
        self.runtime = directory / "run"
        self.log_path = directory / "log"
        self.config.write_text(
            f'[daemon]\nruntime-dir = "{self.runtime}"\nstatus-interval = "500ms"\nlog-format = "json"\n{daemon}\n'
            f'[defaults]\ncache-dir = "{directory}/cache"\nno-prefetch = true\n{defaults}\n'
        )
        self._places: set[Path] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = threading.Timer(deadline_s, self._kill_mounts)
        self._watchdog.daemon = True
        self._watchdog.start()

    # the configuration

    def place(self, name: str) -> Path:
        """The mount point of a mount."""
        return self.directory / "mnt" / name

    def describe(self, name: str, *lines: str, make: bool = True) -> Path:
        """Write the file of a mount, at once as an editor does; return its mount point."""
        place = self.place(name)
        if make and place not in self._places:
            place.mkdir(parents=True)
        self._places.add(place)
        rows = [
            f"[mounts.{name}]",
            f'store = "file://{self.directory}/store-{name}"',
            f'mountpoint = "{place}"',
            *lines,
        ]
        temporary = self.conf_d / f".{name}.new"
        temporary.write_text("\n".join(rows) + "\n")
        temporary.rename(self.file_of(name))
        return place

    def file_of(self, name: str) -> Path:
        """The file that describes a mount."""
        return self.conf_d / f"{name}.toml"

    # life

    def start(
        self,
        *,
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
        program: Sequence[str] = ("-m", "ckptfsd"),
    ) -> "RunningDaemon":
        """Start it; return when every mount has been tried.

        Args:
            env: Environment besides the present one.
            through: A command that executes what follows it. Descriptors that can be inherited are.
            program: What Python runs.
        """
        lines = self.lines("ready")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*through, sys.executable, *program, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | dict(env or {}),
                close_fds=not through,
            )
        self.wait(lambda: len(self.lines("ready")) > len(lines) or self.has_ended, "it is ready")
        assert not self.has_ended, self.log()
        return self

    @property
    def has_ended(self) -> bool:
        """True if there is none now."""
        return self._process is None or self._process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_TIMEOUT_S)

    def stop(self) -> int:
        """SIGTERM; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(_TIMEOUT_S)

    def close(self) -> None:
        """Leave nothing behind."""
        if not self.has_ended:
            self.kill()
        self._kill_mounts()
        self._watchdog.cancel()
        for place in self._places:
            clear_away(place)

    def _kill_mounts(self) -> None:
        # a keeper that is killed before its server: it starts no other
        while found := supervised.find(os.fspath(self.runtime)):
            for running in found:
                try:
                    os.kill(running.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    # what it says

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the API; return status and document."""
        sent = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        return self.send(method, path, sent, {})

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        """Send the API a body as it is; return status and document."""
        connection = _UnixConnection(self.runtime / "ckptfsd.sock")
        try:
            connection.request(method, path, body, headers | ({"Content-Type": "application/json"} if body else {}))
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("Content-Type", "").startswith("application/json")
            return response.status, json.loads(content) if is_json else content.decode()
        finally:
            connection.close()

    def mount(self, name: str) -> dict[str, Any]:
        """What it tells of a mount."""
        status, answer = self.ask("GET", f"/v1/mounts/{name}")
        assert status == 200, answer
        return dict(answer)

    def pids(self, name: str) -> tuple[int, int]:
        """Keeper and server of a mount."""
        status = self.status_of(name)
        return int(status["keeper"]), int(status["pid"])

    def status_of(self, name: str) -> dict[str, Any]:
        """What a mount says itself, read past the daemon."""
        return dict(json.loads((self.place(name) / ".status").read_bytes()))

    def wait_mounted(self, name: str) -> dict[str, Any]:
        """Return what a mount says when it is up."""
        self.wait(lambda: self._state(name) == "mounted", f"{name} is mounted")
        return self.status_of(name)

    def _state(self, name: str) -> str:
        status, answer = self.ask("GET", f"/v1/mounts/{name}")
        return str(answer["state"]) if status == 200 else "unknown"

    def log(self) -> str:
        """All that it and its mounts have logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def lines(self, beginning: str) -> list[dict[str, Any]]:
        """Return the log's records whose message begins so."""
        found = []
        for line in self.log().splitlines():
            record = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
            if str(record.get("message", "")).startswith(beginning):
                found.append(record)
        return found

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Poll until something is so."""
        try:
            wait_until(is_so, _TIMEOUT_S, what)
        except AssertionError as error:
            error.add_note(self.log()[-5000:])
            raise


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))
