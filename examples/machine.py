"""A machine that trains: a mount with a cache of its own, and a program in it. It can be lost."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.processes import tree_of
from bench.product import ckptfs_env, read_ckptfs, run_ckptfs
from ckptfs.mount_table import mounts

_PAGE_BYTES = 4096
_END_S = 120.0


class ExampleError(Exception):
    """Something is not as it must be."""


class Program:
    """A program whose lines are read one by one, and that does not run ahead of its reader.

    Its output is a pipe that holds one packet (O_DIRECT of pipe(2)): a program that writes a line at a time waits in
    the write of the line after the next. So it can be killed at a step that was chosen before, however fast it is.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], errors: Path) -> None:
        self._name = " ".join(command)
        reading, writing = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PAGE_BYTES)
        self._reading = reading
        self._errors = errors
        with errors.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=writing, stderr=log
            )
        os.close(writing)

    def lines(self) -> Iterator[str]:
        """Yield what it prints, until all who could print have ended."""
        rest = b""
        while packet := os.read(self._reading, _PAGE_BYTES):
            *whole, rest = (rest + packet).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def kill(self) -> None:
        """Kill -9 it and all that it has started."""
        kill_all(tree_of(self._process.pid))
        self._process.wait(_END_S)

    def end(self) -> None:
        """Wait for its end. Raises ExampleError if it failed."""
        if self._process.wait(_END_S):
            said = self._errors.read_text(errors="replace")[-3000:]
            raise ExampleError(f"{self._name} ended with {self._process.returncode}:\n{said}")

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self.kill()
        os.close(self._reading)


class Machine:
    """A context manager that mounts a store with an empty cache directory, and unmounts it.

    Args:
        work: Where its directory is made.
        name: Of the directory.
        store: The URL.
        env: Besides the present environment.
        options: Of `ckptfs mount`.
    """

    def __init__(self, work: Path, name: str, store: str, env: Mapping[str, str], *options: str) -> None:
        self.ckpt = work / name / "ckpt"
        self._cache = work / name / "cache"
        self._errors = work / name / "stderr"
        self._store = store
        self._env = env
        self._options = options
        self._processes: list[int] = []

    def __enter__(self) -> "Machine":
        self.ckpt.mkdir(parents=True)
        run_ckptfs("mount", self._store, str(self.ckpt), "--cache-dir", str(self._cache), *self._options, env=self._env)
        self._processes = [int(read_ckptfs("status", str(self.ckpt), env=self._env)["keeper"])]
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes:
            self.lose()
        clear_away(self.ckpt)
        shutil.rmtree(self._cache, ignore_errors=True)

    def lose(self) -> None:
        """Kill -9 all processes of the mount. The keeper first: it would have another process take over."""
        (keeper,) = self._processes
        os.kill(keeper, signal.SIGSTOP)
        kill_all(tree_of(keeper))
        self._processes = []

    def umount(self) -> None:
        """Unmount, which waits until all is durable."""
        run_ckptfs("umount", str(self.ckpt), env=self._env)
        self._processes = []

    @contextlib.contextmanager
    def program(self, command: Sequence[str], folder: Path) -> Iterator[Program]:
        """Start a program on it; it is killed at the end, if it still runs."""
        program = Program(command, folder, self.env, self._errors)
        try:
            yield program
        finally:
            program.close()

    @property
    def env(self) -> dict[str, str]:
        """The environment of the programs: no GPU, one thread, no network."""
        alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        return ckptfs_env({**self._env, **alone, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})


def kill_all(pids: Sequence[int]) -> None:
    """Kill -9 processes, as far as they live."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def clear_away(mountpoint: Path) -> None:
    """Take away a mount of ours, dead or alive, if there is one."""
    if any(mount.mountpoint == mountpoint for mount in mounts()):
        program = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        subprocess.run([*program, str(mountpoint)], check=False, timeout=_END_S)
