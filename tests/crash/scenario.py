"""The scenario whose every step is a crash point, and what must be so whatever was killed in it.

The scenario is a list of acts. Before and after each, what is about to be done, or was, is written down outside the
scene; what the tree holds after each act, and what each version holds, follows from the acts alone.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.errors import InvalidInputError
from ckptfs.store.open import open_store
from ckptfs.transfer.restore import restore
from ckptfs.transfer.verify import verify
from ckptfs.versions.history import History, open_history
from tests.crash.desk import Desk, store_of

BOOT = "11111111-boot-of-the-machine"
NEXT_BOOT = "22222222-after-the-power-cut"

# a lease is watched for 30 s; mounting takes 10 ms
_LONGEST_MOUNT_S = 20.0

Files = dict[str, bytes]
_write = os.write


@dataclass(frozen=True, slots=True)
class Act:
    """One thing done, and what it makes of the files."""

    do: Callable[["Stage"], None]
    change: Callable[[Files], None] = lambda files: None
    kind: str = "change"
    """`change`, or `mount`, `touch`, `upload`, `end`, `restore <version>`."""


@dataclass
class Stage:
    """Where the acts are done."""

    scene: Path
    boot: str = BOOT
    desk_: Desk | None = None

    @property
    def desk(self) -> Desk:
        if self.desk_ is None:
            raise AssertionError("nothing is mounted")
        return self.desk_

    def mount(self) -> None:
        self.desk_ = Desk(self.scene, self.boot)

    def end(self) -> None:
        self.desk.end()
        self.desk_ = None


@dataclass(frozen=True, slots=True)
class Script:
    """A scenario, and what follows from it."""

    acts: tuple[Act, ...]
    trees: tuple[Files, ...]
    """What the live tree holds after each act."""
    versions: dict[int, Files]
    captured: tuple[int, ...]
    """How many versions are captured after each act."""
    durable: tuple[int, ...]
    """And durable."""
    kept: tuple[int, ...]
    """And as many outlive a restart of the machine: durable, or left by a clean unmount."""


def write_script() -> Script:
    """Return the scenario: two sessions, each with saves, uploads and changes while a version is pending."""
    chance = random.Random(3)
    weights, log, other = chance.randbytes(60_000), chance.randbytes(5_000), chance.randbytes(900)
    acts = (
        Act(lambda stage: stage.mount(), kind="mount"),
        _mkdir("a"),
        _writes("weights", weights),
        _writes("a/log", log),
        _writes("a/other", other),
        _touches("one"),
        Act(lambda stage: stage.desk.upload(), kind="upload"),
        # in place, whole, at the end, by a new name
        _writes("weights", chance.randbytes(700), 10_000),
        _writes("a/log", chance.randbytes(4_000), 5_000),
        _writes("a/new", chance.randbytes(3_000)),
        _renames("a/new", "a/other"),
        _touches("two"),
        # while that one is pending: it gets copies of its own
        _writes("weights", chance.randbytes(500), 20_000),
        _rewrites("a/log", chance.randbytes(2_000)),
        _links("weights", "a/further"),
        _touches("three"),
        _unlinks("a/other"),
        _writes("unsaved", chance.randbytes(1_500)),
        Act(lambda stage: stage.desk.upload(), kind="upload"),
        _touches("four"),
        # a restore waits for what is pending
        Act(lambda stage: stage.desk.upload(), kind="upload"),
        Act(lambda stage: stage.desk.restore("1"), kind="restore 1"),
        _writes("weights", chance.randbytes(300), 100),
        _touches("five"),
        Act(lambda stage: stage.end(), kind="end"),
        Act(lambda stage: stage.mount(), kind="mount"),
        _truncates("weights", 30_000),
        # on top of one that a clean unmount has left
        _touches("six"),
        Act(lambda stage: stage.desk.upload(), kind="upload"),
        _writes("weights", chance.randbytes(200), 5_000),
        _touches("seven"),
        Act(lambda stage: stage.desk.upload(), kind="upload"),
        _writes("last", chance.randbytes(100)),
        Act(lambda stage: stage.end(), kind="end"),
    )
    return _follow(acts)


def _follow(acts: tuple[Act, ...]) -> Script:
    files: Files = {}
    trees: list[Files] = []
    versions: dict[int, Files] = {}
    counts: list[tuple[int, int, int]] = []
    durable = kept = 0
    for act in acts:
        act.change(files)
        if act.kind == "touch":
            versions[len(versions) + 1] = dict(files)
        elif act.kind.startswith("restore"):
            files = dict(versions[int(act.kind.split()[1])])
        elif act.kind == "upload":
            durable = kept = len(versions)
        elif act.kind == "end":
            kept = len(versions)
        elif act.kind == "mount" and versions:
            # what was not saved before the unmount is set aside
            files = dict(versions[len(versions)])
        trees.append(dict(files))
        counts.append((len(versions), durable, kept))
    captured, durables, keeps = zip(*counts, strict=True)
    return Script(acts, tuple(trees), versions, captured, durables, keeps)


def perform(script: Script, stage: Stage, diary_fd: int) -> None:
    """Do all acts, saying so."""
    for number, act in enumerate(script.acts):
        _write(diary_fd, b"begin %d\n" % number)
        act.do(stage)
        _write(diary_fd, b"done %d\n" % number)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run came: acts from 0 to `done` were done, and `begun` was being done if it is another."""

    done: int
    begun: int

    @classmethod
    def of(cls, diary: bytes) -> "Progress":
        numbers: dict[bytes, int] = {b"begin": -1, b"done": -1}
        for line in diary.splitlines():
            word, number = line.split()
            numbers[word] = int(number)
        return cls(numbers[b"done"], numbers[b"begin"])

    def of_counts(self, counts: tuple[int, ...]) -> tuple[int, int]:
        """Return the least and the most that a count may be."""
        return (counts[self.done] if self.done >= 0 else 0, counts[self.begun] if self.begun >= 0 else 0)


@dataclass(slots=True)
class Judge:
    """Checks what is left of a scene against the promises of PRODUCT section 1."""

    script: Script
    scene: Path
    progress: Progress
    has_restarted: bool
    violations: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Look at the store as a reader does, recover, go on, and look again; what is wrong is in `violations`."""
        least_durable, most = (
            self.progress.of_counts(self.script.durable)[0],
            self.progress.of_counts(self.script.captured)[1],
        )
        self._check_store(range(least_durable, most + 1), "as it was left")
        started_s = time.monotonic()
        desk = Desk(self.scene, NEXT_BOOT if self.has_restarted else BOOT, takeover=self.has_restarted)
        if time.monotonic() - started_s > _LONGEST_MOUNT_S:
            self.violations.append("who is dead on this machine was waited for")
        least = self.progress.of_counts(self.script.kept if self.has_restarted else self.script.captured)[0]
        version = desk.version
        if not least <= version <= most:
            self.violations.append(f"version {version} is shown, of at least {least} and at most {most}")
        self._compare(self.script.versions.get(version, {}), desk.files(), f"live tree of version {version}")
        if not self.has_restarted:
            self._check_unsaved(version)
        desk.write("afterwards", b"saved after the recovery")
        desk.touch("afterwards")
        desk.upload()
        files = desk.files()
        desk.end()
        versions = {**{number: self.script.versions[number] for number in range(1, version + 1)}, version + 1: files}
        self._check_store(range(version + 1, version + 2), "after the recovery", versions)

    def _check_store(self, wanted: range, when: str, versions: dict[int, Files] | None = None) -> None:
        """Every version that is listed is whole and what was saved, and none that was durable is missing."""
        expected = versions if versions is not None else self.script.versions
        history = self._history()
        numbers = history.numbers() if history is not None else []
        if numbers != list(range(1, len(numbers) + 1)) or len(numbers) not in wanted:
            self.violations.append(f"{when}, the store has versions {numbers}, of {list(wanted)}")
        if history is None:
            return
        for finding in verify(history, history.store, read_data=True):
            self.violations.append(f"{when}: {finding}")
        for number in numbers:
            target = self.scene / f"restored-{number}-{when.replace(' ', '-')}"
            restore(history, history.store, history.resolve(number), target)
            found = {
                os.fspath(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()
            }
            self._compare(expected.get(number, {}), found, f"{when}, version {number}")

    def _history(self) -> History | None:
        try:
            return open_history(open_store(store_of(self.scene), create=True))
        except InvalidInputError:
            return None  # killed before it was one

    def _check_unsaved(self, version: int) -> None:
        """What was written and never saved is in the version anyway, or kept aside."""
        if self.progress.done < 0 or self.script.acts[self.progress.done].kind == "end":
            return
        tree, saved = self.script.trees[self.progress.done], self.script.versions.values()
        being_done = self.script.trees[self.progress.begun]
        (cache,) = (path for path in (self.scene / "cache").iterdir() if (path / "unsaved").is_dir())
        for name, data in tree.items():
            # a restore may have brought it from any version
            if any(files.get(name) == data for files in saved) or being_done.get(name) != data:
                continue
            kept = [each / name for each in (cache / "unsaved").iterdir()]
            if not any(path.is_file() and path.read_bytes() == data for path in kept):
                self.violations.append(f"{name} was written after version {version} and is nowhere")

    def _compare(self, expected: Files, found: Files, what: str) -> None:
        if expected == found:
            return
        names = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        self.violations.append(f"{what}: {sorted(names)} differ")


def _mkdir(path: str) -> Act:
    return Act(lambda stage: stage.desk.mkdir(path))


def _writes(path: str, data: bytes, offset_bytes: int = 0) -> Act:
    def change(files: Files) -> None:
        before = files.get(path, b"")
        files[path] = before[:offset_bytes] + data + before[offset_bytes + len(data) :]

    return Act(lambda stage: stage.desk.write(path, data, offset_bytes), change)


def _rewrites(path: str, data: bytes) -> Act:
    return Act(lambda stage: stage.desk.write(path, data, truncates=True), lambda files: files.__setitem__(path, data))


def _truncates(path: str, size_bytes: int) -> Act:
    return Act(
        lambda stage: stage.desk.truncate(path, size_bytes),
        lambda files: files.__setitem__(path, files[path][:size_bytes]),
    )


def _renames(old: str, new: str) -> Act:
    return Act(lambda stage: stage.desk.rename(old, new), lambda files: files.__setitem__(new, files.pop(old)))


def _links(old: str, new: str) -> Act:
    return Act(lambda stage: stage.desk.link(old, new), lambda files: files.__setitem__(new, files[old]))


def _unlinks(path: str) -> Act:
    return Act(lambda stage: stage.desk.unlink(path), lambda files: files.__delitem__(path))


def _touches(note: str) -> Act:
    return Act(lambda stage: stage.desk.touch(note), kind="touch")
