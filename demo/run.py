"""The main job, on real input, from nothing: train, lose the machine, go on elsewhere from the newest version.

    python -m demo.run

Starts an S3 server on loopback, trains XGBoost into a mount, kills trainer and mount with SIGKILL in the middle, mounts
the store again with an empty cache directory, trains on, and compares with a run that nothing interrupted. Then the
same from a shell script. Everything happens in one temporary directory, which is removed at the end. Exit code 0 if all
of it is right.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.seaweedfs import SeaweedFS

ROUNDS = 200
EVERY = 10
KILLED_AFTER_ROUND = 110
ROUND_S = 0.02
"""So that the run lasts long enough to be killed in the middle; the data are small."""

_BIN = Path(sys.executable).parent
_REPOSITORY = Path(__file__).parents[1]


class DemoError(Exception):
    """Something is not as it must be."""


class Demo:
    """One run of the story.

    Args:
        work: An empty directory; what is run has it as its working directory.
        server: A running S3 server.
    """

    def __init__(self, work: Path, server: SeaweedFS) -> None:
        self._work = work
        path = f"{_BIN}:{os.environ.get('PATH', '')}"
        self._env = os.environ | server.env | {"PATH": path, "PYTHONPATH": str(_REPOSITORY)}
        server.create_bucket("demo")
        self._store = "s3://demo/xgboost"

    def train_and_lose_the_machine(self) -> None:
        """Train into a mount; kill everything in the middle."""
        say("One machine trains, and is lost in the middle")
        mountpoint, cache = self._mount("machine-1")
        trainer = self._start_trainer(mountpoint)
        for line in self._lines(trainer):
            if line.startswith(f"round {KILLED_AFTER_ROUND}:"):
                break
        # a few rounds more, which no version will have
        time.sleep(4 * ROUND_S)
        status = self._ckptfs_json("status", mountpoint)
        upload_pid = int(next((self._work / cache).glob("*/upload.lock")).read_text())
        # the keeper first: it would have another process take over from the mount process
        mount = {"keeper": int(status["keeper"]), "mount": int(status["pid"]), "upload": upload_pid}
        for name, pid in {"trainer": trainer.pid, **mount}.items():
            print(f"kill -9 {pid}   # the {name} process")
            os.kill(pid, signal.SIGKILL)
        trainer.communicate()
        self._run("log", self._store, "--limit", "3")

    def go_on_elsewhere(self) -> dict[str, float]:
        """Mount with an empty cache directory and train to the end; return what the model can do."""
        say("Another machine mounts the same store, with an empty cache directory, and goes on")
        mountpoint, _ = self._mount("machine-2")
        newest = self._ckptfs_json("log", self._store)[0]
        trainer = self._start_trainer(mountpoint)
        lines = list(self._lines(trainer))
        if trainer.wait() != 0:
            raise DemoError(f"the trainer failed with exit code {trainer.returncode}")
        expect(lines[0], f"found a model of {newest['note']['round']} rounds, going on")
        self._run("save", mountpoint, "-m", "finished", "--wait")
        self._run("umount", mountpoint)
        result: dict[str, float] = json.loads(lines[-1])
        return result

    def compare_with_an_uninterrupted_run(self, result: dict[str, float]) -> None:
        """Train once more into an ordinary directory, with nothing in the way, and compare."""
        say("The same training without any interruption, in an ordinary directory")
        plain = Path("plain")
        (self._work / plain).mkdir()
        trainer = self._start_trainer(plain, quick=True)
        wanted = json.loads(list(self._lines(trainer, show=False))[-1])
        trainer.wait()
        for name in wanted:
            print(f"{name:<10} interrupted {result[name]:<22} uninterrupted {wanted[name]}")
        expect(result["rounds"], ROUNDS)
        expect(result["accuracy"], wanted["accuracy"])
        if abs(result["logloss"] - wanted["logloss"]) > 1e-6:
            raise DemoError("the interrupted run predicts worse")

    def look_at_the_store(self) -> None:
        """Show what is in the store, and check every byte of it."""
        say("What the store holds")
        self._run("log", self._store, "--limit", "5")
        versions = self._ckptfs_json("log", self._store)
        plain = sum(version["bytes"] for version in versions)
        stored = sum(version["bytes_added"] for version in versions)
        print(f"{len(versions)} versions of {plain:,} bytes in all take {stored:,} bytes")
        self._run("verify", self._store, "--read-data")

    def same_from_a_shell(self) -> None:
        """Run the story that has no Python in it."""
        say("The same from a shell: no Python, no library, only files")
        story = _REPOSITORY / "demo" / "story.sh"
        subprocess.run(["sh", story, "s3://demo/shell", "shell"], env=self._env, cwd=self._work, check=True)

    def clean_up(self) -> None:
        """Take away what mounts are left."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mountpoint = line.split(" ")[4]
            if mountpoint.startswith(f"{self._work}/"):
                command = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount", "-uz"]
                subprocess.run([*command, mountpoint], check=False)

    def _mount(self, machine: str) -> tuple[Path, Path]:
        mountpoint, cache = Path(machine, "ckpt"), Path(machine, "cache")
        (self._work / mountpoint).mkdir(parents=True)
        started = time.monotonic()
        self._run("mount", self._store, mountpoint, "--cache-dir", cache)
        names = sorted(path.name for path in (self._work / mountpoint).iterdir())
        print(f"mounted after {time.monotonic() - started:.2f} s; it holds {', '.join(names) or 'nothing'}")
        return mountpoint, cache

    def _start_trainer(self, directory: Path, *, quick: bool = False) -> subprocess.Popen[str]:
        options = ["--rounds", str(ROUNDS), "--every", str(EVERY), "--round-s", str(0 if quick else ROUND_S)]
        command = [sys.executable, "-m", "demo.train_xgboost", str(directory), *options]
        print(f"$ python -m demo.train_xgboost {directory} {' '.join(options)}", flush=True)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._env, cwd=self._work)

    def _lines(self, process: subprocess.Popen[str], *, show: bool = True) -> Iterator[str]:
        if process.stdout is None:
            raise DemoError("the trainer has no output")
        for line in process.stdout:
            if show and not line.startswith("{"):
                print(f"    {line}", end="", flush=True)
            yield line.rstrip()

    def _run(self, command: str, *arguments: str | Path) -> None:
        print(f"$ ckptfs {command} {' '.join(map(str, arguments))}", flush=True)
        subprocess.run([_BIN / "ckptfs", command, *arguments], env=self._env, cwd=self._work, check=True)

    def _ckptfs_json(self, command: str, *arguments: str | Path) -> Any:
        program = [_BIN / "ckptfs", command, *arguments, "--json"]
        return json.loads(subprocess.check_output(program, env=self._env, cwd=self._work))


def say(title: str) -> None:
    """Print the title of a chapter."""
    print(f"\n=== {title}", flush=True)


def expect(value: object, wanted: object) -> None:
    """Raise DemoError unless a value is the one wanted."""
    if value != wanted:
        raise DemoError(f"got {value!r}, expected {wanted!r}")


@contextmanager
def work_directory() -> Iterator[Path]:
    """Yield an empty directory that is removed at the end."""
    work = Path(tempfile.mkdtemp(prefix="ckptfs-demo-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run() -> None:
    """Run the whole story. Raises DemoError or subprocess.CalledProcessError where something is not right."""
    started = time.monotonic()
    with work_directory() as work:
        say("An S3 server on this machine (SeaweedFS)")
        with SeaweedFS(work / "seaweedfs") as server:
            print(f"{server.endpoint} is up after {time.monotonic() - started:.1f} s")
            demo = Demo(work, server)
            try:
                demo.train_and_lose_the_machine()
                result = demo.go_on_elsewhere()
                demo.compare_with_an_uninterrupted_run(result)
                demo.look_at_the_store()
                demo.same_from_a_shell()
            finally:
                demo.clean_up()
    say(f"All is as it should be, after {time.monotonic() - started:.0f} s")


def main(story: Callable[[], None] = run) -> int:
    """Run as a program; return the exit code."""
    try:
        story()
    except (DemoError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
