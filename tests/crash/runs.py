"""Runs of the scenario, each in a process of its own that is killed at one step; and what became of the promises."""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.desk import Desk
from tests.crash.scenario import BOOT, Judge, Progress, Script, Stage, perform
from tests.crash.steps import Steps

# one run takes 0.2 s; a process that waits for something that never comes has failed
_TIMEOUT_S = 60
_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}
# nouuid: all are copies of one
_OPTIONS = {"ext4": "loop", "xfs": "loop,nouuid"}
_MAKERS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q"]}


@dataclass(slots=True)
class Outcome:
    """What one run, or all of them, showed."""

    runs: int = 0
    steps: int = 0
    """Of the scenario, when nothing is killed."""
    kinds: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, where: str, violations: list[str]) -> None:
        """Count a run."""
        self.runs += 1
        self.violations += [f"{where}: {each}" for each in violations]


@dataclass(slots=True)
class Runner:
    """Makes runs in a directory.

    Args:
        directory: On a filesystem where fsync costs little.
        script: The scenario.
    """

    directory: Path
    script: Script

    def count(self) -> tuple[int, Counter[str]]:
        """Return how many steps the scenario has, and of which kinds."""
        with self.scene() as scene:
            answer = self._in_child(lambda: self._perform(scene, 0))
            if answer is None or not answer["count"]:
                raise RuntimeError(f"the scenario did not end: {answer}")
            return answer["count"], Counter(answer["kinds"])

    def kill(self, at: int) -> list[str]:
        """Kill the scenario at a step; return what is not as promised."""
        with self.scene() as scene:
            self._in_child(lambda: self._perform(scene, at))
            return self._judge(scene, has_restarted=False)

    def kill_twice(self, at: int, again_at: int) -> list[str] | None:
        """Kill the scenario at a step and the recovery at one of its own; None if that has fewer."""
        with self.scene() as scene:
            self._in_child(lambda: self._perform(scene, at))
            if self._in_child(lambda: self._recover(scene, again_at)) is not None:
                return None
            return self._judge(scene, has_restarted=False)

    def cut_power(self, at: int, kind: str) -> list[str]:
        """Kill the scenario at a step, and take away what the filesystem had not put on disk by then."""
        with self._disk(kind) as disk:
            scene = disk.directory / "scene"
            scene.mkdir()
            self._in_child(lambda: self._perform(scene, at))
            disk.cut_power()
            return self._judge(scene, has_restarted=True)

    @contextmanager
    def scene(self) -> Iterator[Path]:
        """Make a directory for a run."""
        path = self.directory / "scene"
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)

    @property
    def _diary(self) -> Path:
        return self.directory / "diary"

    def _perform(self, scene: Path, kill_at: int) -> dict[str, object]:
        diary_fd = os.open(self._diary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        steps = Steps(os.fspath(scene), kill_at)
        steps.install()
        perform(self.script, Stage(scene), diary_fd)
        return {"count": steps.count, "kinds": steps.kinds}

    def _recover(self, scene: Path, kill_at: int) -> dict[str, object]:
        Steps(os.fspath(scene), kill_at).install()
        desk = Desk(scene, BOOT)
        desk.upload()
        return {}

    def _judge(self, scene: Path, *, has_restarted: bool) -> list[str]:
        judge = Judge(self.script, scene, Progress.of(self._diary.read_bytes()), has_restarted)

        def check() -> dict[str, object]:
            judge.check()
            return {"violations": judge.violations}

        answer = self._in_child(check)
        return ["the recovery was killed"] if answer is None else list(answer["violations"])

    def _in_child(self, work: Callable[[], dict[str, object]]) -> dict | None:
        return in_child(work, self.directory / "stderr")

    @contextmanager
    def _disk(self, kind: str) -> Iterator["_Disk"]:
        template, image = self.directory / f"{kind}.template", self.directory / f"{kind}.image"
        if not template.exists():
            with template.open("wb") as file:
                file.truncate(_IMAGE_BYTES[kind])
            maker = _MAKERS[kind]
            program = shutil.which(maker[0], path=os.environ["PATH"] + ":/sbin:/usr/sbin")
            subprocess.run([program or maker[0], *maker[1:], template], check=True, timeout=60)
        # a file of its own: what is made meanwhile with a copy of all mounts (a container) keeps the one before mounted
        image.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", template, image], check=True, timeout=60)
        disk = _Disk(kind, image, self.directory / "disk")
        disk.directory.mkdir(exist_ok=True)
        disk.mount()
        try:
            yield disk
        finally:
            disk.unmount()


@dataclass(slots=True)
class _Disk:
    """A filesystem in an image file."""

    kind: str
    image: Path
    directory: Path

    def mount(self) -> None:
        subprocess.run(
            ["mount", "-t", self.kind, "-o", _OPTIONS[self.kind], self.image, self.directory], check=True, timeout=60
        )

    def unmount(self) -> None:
        subprocess.run(["umount", self.directory], check=True, timeout=60)

    def cut_power(self) -> None:
        """What was not on disk is lost, in the way in which this filesystem loses it."""
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)
        self.unmount()
        # another copy of it: somebody who looks at all mounts may keep this one, which stays shut down, for a while
        after = self.image.with_suffix(".after")
        subprocess.run(["cp", "--sparse=always", self.image, after], check=True, timeout=60)
        after.rename(self.image)
        self.mount()


def in_child(work: Callable[[], dict[str, object]], stderr: Path) -> dict | None:
    """Do some work in a process of its own; return what it returns, None if it was killed.

    What goes wrong in it is returned as one of `violations`.
    """
    answers, answering = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be_child(work, answering, stderr)
    os.close(answering)
    with os.fdopen(answers, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if not answer:
        said = stderr.read_text()[-2000:]
        return {"violations": [f"it ended with status {status}\n{said}"], "count": 0, "kinds": {}}
    return dict(json.loads(answer))


def _be_child(work: Callable[[], dict[str, object]], answering: int, stderr: Path) -> None:
    """Work, answer, and end without running what belongs to the parent."""
    code = 1
    try:
        # the upload process takes the end of its input for the end of its mount process
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        fd = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, 2)
        signal.alarm(_TIMEOUT_S)
        try:
            answer = work()
        except BaseException:
            answer = {"violations": [traceback.format_exc()], "count": 0, "kinds": {}}
        os.write(answering, json.dumps(answer).encode())
        code = 0
    finally:
        os._exit(code)
