"""A machine that boots systemd in a podman container, with ckptfs installed (Containerfile)."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]
_IMAGE = "localhost/ckptfs-systemd-test"
_BUILD_ARGS = os.environ.get("CKPTFS_TEST_BUILD_ARGS", "--network=host --pull=missing").split()
_TIMEOUT_S = 90.0
_RUN_ARGS = (
    *("--systemd=always", "--device=/dev/fuse", "--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined"),
    *("--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp"),
)
_CGROUPS = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/devices")]
"""Where control groups are of the first version: systemd writes to these; the other keeps units from devices."""


def build() -> None:
    """Make the image of what the working tree has."""
    with tempfile.TemporaryDirectory() as context:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=_REPOSITORY, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            source, target = _REPOSITORY / name, Path(context, name)
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        Path(context, ".dockerignore").unlink(missing_ok=True)
        file = Path(context, "tests/systemd/Containerfile")
        subprocess.run(["podman", "build", *_BUILD_ARGS, "-q", "-t", _IMAGE, "-f", file, context], check=True)


class Machine:
    """One machine; what it keeps in /store and /var/cache/ckptfs outlives it.

    Args:
        directory: On the host, for what it keeps.
    """

    def __init__(self, directory: Path) -> None:
        self.store, self.cache = directory / "store", directory / "cache"
        for path in (self.store, self.cache):
            path.mkdir()
        volumes = [f"-v={self.store}:/store", f"-v={self.cache}:/var/cache/ckptfs"]
        volumes += [f"-v={path}:{path}:rw" for path in _CGROUPS if (path / "tasks").exists()]
        done = subprocess.run(
            ["podman", "run", "-d", *_RUN_ARGS, *volumes, _IMAGE], capture_output=True, text=True, check=True
        )
        self._id = done.stdout.strip()
        self.wait_booted()

    def close(self) -> None:
        """Take it away."""
        subprocess.run(["podman", "rm", "-f", "-t", "5", self._id], capture_output=True, check=False)

    def reboot(self, between: Callable[[], None]) -> None:
        """Shut it down as systemd does, do something, and boot it again."""
        subprocess.run(["podman", "stop", "-t", "120", self._id], capture_output=True, check=True)
        between()
        subprocess.run(["podman", "start", self._id], capture_output=True, check=True)
        self.wait_booted()

    def lose_cache(self) -> None:
        """Empty the cache directory."""
        for path in self.cache.iterdir():
            shutil.rmtree(path)

    def wait_booted(self) -> None:
        """Return when systemd has started what is enabled."""
        self.wait(
            "it has booted", lambda: self.try_sh("systemctl is-system-running").strip() in ("running", "degraded")
        )

    def sh(self, script: str) -> str:
        """Run a shell script outside all units; return its output. Raises CalledProcessError."""
        command = ["podman", "exec", "-i", self._id, "bash", "-euc", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{script!r} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def try_sh(self, script: str) -> str:
        """Run a shell script that may fail; return its output."""
        command = ["podman", "exec", "-i", self._id, "bash", "-uc", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout

    def start_program(self, kind: str, directory: str) -> "MachineProgram":
        """Start a busy program (tests/e2e/busy_program.py) in a directory of it."""
        self.sh(f"mkdir {directory}")
        script = f"cd /src && exec /opt/ckptfs/bin/python -m tests.e2e.busy_program {kind} {directory} 1"
        command = ["podman", "exec", "-i", self._id, "bash", "-c", script]
        return MachineProgram(
            kind,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ),
        )

    def unit(self, name: str) -> dict[str, str]:
        """Return the properties of a unit."""
        rows = self.sh(f"systemctl show {name}").splitlines()
        return dict(row.split("=", 1) for row in rows if "=" in row)

    def journal(self, beginning: str, unit: str = "ckptfsd") -> list[dict[str, Any]]:
        """Return the records of a unit's journal, of all boots, whose message begins so."""
        rows = [json.loads(line) for line in self.try_sh(f"journalctl -u {unit} -o json --no-pager").splitlines()]
        return [row for row in rows if str(row.get("MESSAGE")).startswith(beginning)]

    def wait(self, what: str, is_so: Callable[[], Any], timeout_s: float = _TIMEOUT_S) -> Any:
        """Poll until something is so; return it."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := is_so()):
            if time.monotonic() > deadline_s:
                raise AssertionError(f"after {timeout_s:.0f} s still not so: {what}")
            time.sleep(0.2)
        return found


class MachineProgram:
    """A program that is at work, and checks all that it does."""

    def __init__(self, kind: str, process: subprocess.Popen[str]) -> None:
        self._kind = kind
        self._process = process

    def stop(self) -> str:
        """Have it end; return what it did. AssertionError: It met an error."""
        said, _ = self._process.communicate("stop\n", timeout=_TIMEOUT_S)
        assert self._process.returncode == 0, said[-3000:]
        return f"{self._kind}: {said.splitlines()[-1]}"

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
