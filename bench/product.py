"""ckptfs as its users run it: the command, and files in a mount."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import MemoryWatch, tree_of

_ROOT = Path(__file__).parent.parent
_DEADLINE_S = 3600.0
_END_S = 120.0


@dataclass(frozen=True, slots=True)
class Timed:
    """How long a command took."""

    wall_s: float
    processor_s: float
    """Its own and its children's."""


def run_timed(command: Sequence[str], env: Mapping[str, str]) -> Timed:
    """Run a command to its end. Raises RuntimeError with what it said if it failed."""
    started_s = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - started_s
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.decode()[-2000:]}")
    return Timed(wall_s, usage.ru_utime + usage.ru_stime)


def ckptfs_command(*arguments: str) -> list[str]:
    """Return the command line of a ckptfs command."""
    return [sys.executable, "-m", "ckptfs", *arguments]


def ckptfs_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which the ckptfs beside these measurements is the one that runs."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "daemon")]), **env}


def run_ckptfs(*arguments: str, env: Mapping[str, str]) -> Timed:
    """Run a ckptfs command to its end. Raises RuntimeError."""
    return run_timed(ckptfs_command(*arguments), ckptfs_env(env))


def run_watched(*arguments: str, env: Mapping[str, str]) -> int:
    """Run a ckptfs command to its end; return the most memory that it and its children had (bytes).

    Raises:
        RuntimeError: It failed.
    """
    process = subprocess.Popen(ckptfs_command(*arguments), env=ckptfs_env(env), stdout=subprocess.DEVNULL)
    with MemoryWatch(process.pid) as watch:
        code = process.wait(_DEADLINE_S)
    if code:
        raise RuntimeError(f"ckptfs {' '.join(arguments)} ended with {code}")
    return watch.peak_bytes


def read_ckptfs(*arguments: str, env: Mapping[str, str]) -> Any:
    """Return what a ckptfs command says in JSON."""
    command = ckptfs_command(*arguments, "--json")
    answer = subprocess.run(command, env=ckptfs_env(env), check=True, capture_output=True, timeout=_DEADLINE_S)
    return json.loads(answer.stdout)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount of a store."""

    store: str
    top: Path
    """The mount point."""
    cache: Path
    keeper: int
    """Pid of the process that all processes of the mount descend from."""
    env: Mapping[str, str]
    mounted_s: float
    """When the command that mounts had ended (time.perf_counter)."""

    @property
    def run(self) -> Path:
        """A directory in the mount for a trainer's files; made if it is missing."""
        path = self.top / "run"
        path.mkdir(exist_ok=True)
        return path

    def touch(self) -> float:
        """Touch the marker; return how long the program that does so waits (s)."""
        started_s = time.perf_counter()
        fd = os.open(self.top / ".save", os.O_WRONLY)
        os.close(fd)
        return time.perf_counter() - started_s

    def sync(self) -> None:
        """Wait until every version is durable."""
        fd = os.open(self.top / ".save", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def save(self) -> tuple[float, float]:
        """Touch the marker and wait until the version is durable; return how long touch and all took (s)."""
        started_s = time.perf_counter()
        stall_s = self.touch()
        self.sync()
        return stall_s, time.perf_counter() - started_s

    def settle(self) -> None:
        """Make one version durable, and wait until all files of the mount are here: neither asks for more then.

        Raises:
            TimeoutError: Some are not after two minutes.
        """
        self.save()
        deadline_s = time.monotonic() + _END_S
        while json.loads((self.top / ".status").read_bytes())["not_fetched_files"]:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.top} has files that are not fetched")
            time.sleep(0.1)

    def newest(self) -> dict[str, Any]:
        """Return what `ckptfs log` says of the newest version."""
        found: list[dict[str, Any]] = read_ckptfs("log", self.store, "-n", "1", env=self.env)
        return found[0]

    @property
    def log(self) -> str:
        """The mount's own log."""
        (path,) = self.cache.glob("*/mount.log")
        return path.read_text()


@contextmanager
def mounted(root: Path, store: str, env: Mapping[str, str], *arguments: str) -> Iterator[Mounted]:
    """Mount a store below a directory, with an empty cache; unmount, and remove the cache, at the end."""
    top, cache = root / "mount", root / "cache"
    top.mkdir(parents=True, exist_ok=True)
    run_ckptfs("mount", store, str(top), "--cache-dir", str(cache), "--sync-timeout", "1h", *arguments, env=env)
    mounted_s = time.perf_counter()
    try:
        keeper = int(read_ckptfs("status", str(top), env=env)["keeper"])
        try:
            yield Mounted(store, top, cache, keeper, env, mounted_s)
        finally:
            _unmount(top, keeper, env)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _unmount(top: Path, keeper: int, env: Mapping[str, str]) -> None:
    processes = tree_of(keeper)
    command = ckptfs_command("umount", str(top))
    try:
        subprocess.run(command, env=ckptfs_env(env), check=True, capture_output=True, timeout=_END_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        subprocess.run(["umount", "-l", str(top)], check=False, capture_output=True, timeout=_END_S)
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


def size_of(directory: Path) -> int:
    """Return the size of all files below a directory (bytes)."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
