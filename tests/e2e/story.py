"""A story of one store through many deaths: a trainer that changes and saves, and a reaper that kills what serves it.

The seed decides what is done; when a kill strikes is left to chance as well, for the threads and processes do not wait
for each other. CKPTFS_TEST_SEED sets another seed.
"""

import json
import os
import random
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.cache.pending import list_pending
from ckptfs.store.open import open_store
from ckptfs.transfer.restore import restore
from ckptfs.versions.history import open_history
from tests.mounting import Mount, Mounts, touch
from tests.snapshot import Snapshot, assert_same, snapshot

SEED = int(os.environ.get("CKPTFS_TEST_SEED", "20261123"))
# thinking between saves makes a mount process live for some saves, and an upload process long enough to do something,
# on fast machines too: a story of n saves has at least n * 0.05 / 0.8 kills
_THINKING_S = 0.05
_LONGEST_LIFE_S = 0.8
# for the end: a busy machine leaves many versions to be uploaded then
_SYNC_TIMEOUT_S = 180.0
# it takes 0.3 s to start; some get nothing done, and most a few versions
_LONGEST_UPLOAD_LIFE_S = 1.0


@dataclass
class Trainer:
    """Changes a mount at random and saves, and remembers what must never be lost.

    Invariant: `captured` are the versions whose touch returned 0, with what a reader saw just before.
    """

    random: random.Random
    wanted: int
    """Saves to be tried."""
    saves: int = 0
    captured: dict[int, Snapshot] = field(default_factory=dict)
    notes: dict[int, int] = field(default_factory=dict)
    """Version to the save's number, which is its note."""
    trying: Snapshot | None = None
    """What a touch that did not return may have captured."""
    unsaved: dict[bytes, bytes] = field(default_factory=dict)
    """Files written since the last capture: path to bytes. One that is being changed is none of them until that call
    has returned, for the change may be made although its maker never hears of it.
    """

    @property
    def newest(self) -> int:
        return max(self.captured, default=0)

    def work(self, root: Path) -> None:
        """Change something and save, until a system call fails because the mount is gone."""
        while self.saves < self.wanted:
            time.sleep(_THINKING_S)
            for _ in range(self.random.randint(1, 4)):
                self._change(root)
            seen = snapshot(root)
            self.saves += 1
            self.trying = seen
            touch(root, json.dumps({"save": self.saves}))
            self._captured(self.newest + 1, seen)

    def _captured(self, version: int, seen: Snapshot) -> None:
        self.captured[version], self.notes[version] = seen, self.saves
        self.trying = None
        self.unsaved.clear()

    def _change(self, root: Path) -> None:
        choice = self.random.random()
        directory = root / self.random.choice(("", "a", "a/b", "c"))
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file-{self.random.randrange(8)}"
        if choice < 0.45:
            self._write(root, path, self.random.randbytes(self.random.choice((0, 10, 5000, 200_000))))
        elif choice < 0.6 and path.exists():
            self._write_sparse(root, path)
        elif choice < 0.7 and path.exists():
            other = directory / f"file-{self.random.randrange(8)}"
            if not (other.exists() and other.samefile(path)):
                moved = self.unsaved.pop(_relative(root, path), None)
                self.unsaved.pop(_relative(root, other), None)
                path.rename(other)
                if moved is not None:
                    self.unsaved[_relative(root, other)] = moved
        elif choice < 0.78 and path.exists():
            self.unsaved.pop(_relative(root, path), None)
            path.unlink()
        elif choice < 0.86 and path.exists():
            path.chmod(self.random.choice((0o600, 0o644, 0o755)))
            os.setxattr(path, "user.step", b"%d" % self.saves)
        elif choice < 0.92:
            link = directory / f"link-{self.random.randrange(3)}"
            link.unlink(missing_ok=True)
            link.symlink_to(f"file-{self.random.randrange(8)}")
        elif path.exists():
            os.utime(path, ns=(1, self.random.randrange(10**18)))

    def _write(self, root: Path, path: Path, data: bytes) -> None:
        """Rewrite in place, or through a temporary file, as programs do."""
        self.unsaved.pop(_relative(root, path), None)
        if self.random.random() < 0.5:
            path.write_bytes(data)
        else:
            temporary = path.with_name(f"{path.name}.tmp")
            temporary.write_bytes(data)
            temporary.rename(path)
        self.unsaved[_relative(root, path)] = data

    def _write_sparse(self, root: Path, path: Path) -> None:
        before = path.read_bytes()
        self.unsaved.pop(_relative(root, path), None)
        with open(path, "r+b") as file:
            offset = len(before) + 100_000
            file.seek(offset)
            file.write(b"end")
        self.unsaved[_relative(root, path)] = before + bytes(100_000) + b"end"


def _relative(root: Path, path: Path) -> bytes:
    return os.fsencode(path.relative_to(root))


class Reaper(threading.Thread):
    """Kills the processes of a mount after random times: the upload process again and again, the mount process once."""

    def __init__(self, mount: Mount, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._mount = mount
        self._random = chance
        self.is_over = threading.Event()
        self.upload_kills = 0

    def run(self) -> None:
        end_s = time.monotonic() + self._random.uniform(0.0, _LONGEST_LIFE_S)
        while (left_s := end_s - time.monotonic()) > 0:
            if self.is_over.wait(min(left_s, self._random.uniform(0.0, _LONGEST_UPLOAD_LIFE_S))):
                return
            self.upload_kills += self._mount.kill_upload_process()
        self._mount.kill()


class Story:
    """The same store through many deaths, on one machine and, if it moves, now and then on another (an empty cache)."""

    def __init__(self, mounts: Mounts, store: str, saves: int, *, moves: bool, seed: int = SEED) -> None:
        self._mounts = mounts
        self._store = store
        self._moves = moves
        self._machines = 1
        self._chance = random.Random(seed)
        self.trainer = Trainer(random.Random(seed + 1), saves)
        self.kills = self.upload_kills = self.moves = self.lost_to_another = 0

    def __repr__(self) -> str:
        return (
            f"saves={self.trainer.saves} versions={self.trainer.newest} kills={self.kills} "
            f"upload_kills={self.upload_kills} moves={self.moves} lost_to_another={self.lost_to_another}"
        )

    def run(self) -> None:
        """Save until there are enough saves, whatever is killed meanwhile; end with a clean unmount."""
        while True:
            mount = self._start()
            reaper = Reaper(mount, self._chance)
            reaper.start()
            try:
                self.trainer.work(mount.root)
            except OSError:
                reaper.join(30)
                assert not mount.is_alive, "an operation failed on a live mount\n" + mount.log[-2000:]
            reaper.is_over.set()
            reaper.join(30)
            self.upload_kills += reaper.upload_kills
            if mount.is_alive:
                break
            self.kills += 1
        mount.sync()
        assert mount.unmount() == 0

    def _start(self) -> Mount:
        """Mount where the last one died, or with an empty cache; check what is shown."""
        moves = self._moves and self.kills % 3 == 1
        if moves:
            self.moves += 1
            self._machines += 1
        mount = self._mounts(
            self._store,
            name="mnt",
            cache=f"cache-{self._machines}",
            prefetch=self._chance.random() < 0.5,
            sync_timeout_s=_SYNC_TIMEOUT_S,
        )
        marker = mount.marker()
        if moves:
            self._go_back_to(marker["version"])
        self._check_newest(mount, marker)
        return mount

    def _go_back_to(self, version: int) -> None:
        """What was captured and not durable stays on the other machine; history goes on from what is durable."""
        lost = {number for number in self.trainer.captured if number > version}
        self.lost_to_another += len(lost)
        left = self._mounts.directory / f"cache-{self._machines - 1}"
        (pending,) = left.glob("*/pending")
        assert lost <= {each.version for each in list_pending(pending)}
        for number in lost:
            del self.trainer.captured[number], self.trainer.notes[number]
        self.trainer.unsaved.clear()

    def _check_newest(self, mount: Mount, marker: dict[str, object]) -> None:
        """The newest captured version is shown; what was written after it is kept aside."""
        trainer, version = self.trainer, marker["version"]
        if version == trainer.newest + 1 and trainer.trying is not None:
            # the touch did not return, and yet it captured
            trainer._captured(version, trainer.trying)
        assert version == trainer.newest, (
            f"the newest version is {trainer.newest}, shown is {version}\n{mount.log[-3000:]}"
        )
        if version:
            assert marker["note"] == {"save": trainer.notes[version]}
            assert_same(trainer.captured[version], snapshot(mount.root), f"version {version} after {self.kills} kills")
        self._check_unsaved(mount)
        trainer.trying = None

    def _check_unsaved(self, mount: Mount) -> None:
        for path, data in self.trainer.unsaved.items():
            if version_has(self.trainer, path, data):
                continue
            kept = [(each / os.fsdecode(path)) for each in (mount.cache / "unsaved").iterdir()]
            assert any(each.is_file() and each.read_bytes() == data for each in kept), (
                f"{path!r} was written and is nowhere"
            )
        self.trainer.unsaved.clear()


def version_has(trainer: Trainer, path: bytes, data: bytes) -> bool:
    """True if the newest version holds these bytes anyway."""
    node = trainer.captured.get(trainer.newest, {}).get(path)
    return node is not None and node.content == data


def assert_history_is_whole(store: str, trainer: Trainer, target: Path) -> None:
    """Every captured version is in the store, numbered without a gap, and each restores to what was captured."""
    opened = open_store(store)
    try:
        history = open_history(opened)
        records = list(history.versions())
        assert [record.version for record in records] == list(range(trainer.newest, 0, -1))
        assert trainer.captured.keys() == {record.version for record in records}
        for record in records:
            assert record.note == {"save": trainer.notes[record.version]}
            assert record.torn == 0
            restore(history, opened, record, target, [], lambda done, total: None)
            assert_same(trainer.captured[record.version], snapshot(target), f"version {record.version} from the store")
            shutil.rmtree(target)
    finally:
        opened.close()
