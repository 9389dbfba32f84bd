"""Whole-product stories for a store that misbehaves: each saves, comes back in some way, and compares every version.

A story gets mounts, a store and a seed, and raises AssertionError when anything is lost, half visible or wrong. What a
person would do again (a command that said that the store did not answer) is done again.
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cli.scene import Run, ckptfs
from tests.e2e.story import Story, assert_history_is_whole
from tests.mounting import Mount, MountFailedError, Mounts, touch, wait_until
from tests.snapshot import Snapshot, assert_same, snapshot

TellStory = Callable[[Mounts, str, int], None]

_TRIES = 10
# a command that does not end is stopped by the test's own time-out
_PATIENCE_S = 600.0


def through_deaths(mounts: Mounts, store: str, seed: int, *, saves: int = 25) -> None:
    """Mount and upload processes are killed, and other machines go on."""
    story = Story(mounts, store, saves, moves=True, seed=seed)
    story.run()
    assert_history_is_whole(store, story.trainer, mounts.directory / "restored")


def of_a_training_run(mounts: Mounts, store: str, seed: int, *, versions: int = 5) -> None:
    """Saves of files of several chunks; every version comes back by restore, by a mount and by verify."""
    chance = random.Random(seed)
    mounted = mount_again(mounts, store, cache="cache-train")
    saved: dict[int, Snapshot] = {}
    for step in range(1, versions + 1):
        _train(mounted.root, chance, step)
        touch(mounted.root, json.dumps({"step": step}))
        saved[step] = snapshot(mounted.root)
    sync_again(mounted)
    assert mounted.unmount() == 0
    assert run_again("tag", store, "2", "best").code == 0
    verified = run_again("verify", store, "--read-data")
    assert verified.code == 0, verified
    for version, expected in saved.items():
        target = mounts.directory / f"restored-{version}"
        assert run_again("restore", store, target, "--version", str(version)).code == 0
        assert_same(expected, snapshot(target), f"version {version}, restored")
        shutil.rmtree(target)
    reader = mount_again(mounts, store, cache="cache-elsewhere", name="reader", read_only=True)
    assert_same(saved[versions], read_again(reader.root), "the newest version, read on demand")
    tagged = reader.root / ".versions" / os.readlink(reader.root / ".versions" / "best")
    assert_same(saved[2], read_again(tagged), "a tagged version, read on demand")
    assert reader.unmount() == 0


def of_a_takeover(mounts: Mounts, store: str, seed: int) -> None:
    """A second machine takes the store over: the first can commit nothing more, and the second has what was durable."""
    chance = random.Random(seed)
    first = mount_again(mounts, store, cache="cache-first", name="first")
    _train(first.root, chance, 1)
    touch(first.root)
    expected = snapshot(first.root)
    sync_again(first)
    second = mount_again(mounts, store, cache="cache-second", name="second", takeover=True)
    assert_same(expected, read_again(second.root), "what the second machine shows")
    _train(first.root, chance, 2)
    # a touch may still capture until the first has noticed
    wait_until(lambda: _touch_errno(first) == errno.EROFS, 60, "the first writer is fenced")
    _train(second.root, chance, 3)
    touch(second.root, "by the second")
    expected = snapshot(second.root)
    sync_again(second)
    assert second.unmount() == 0
    first.close()
    target = mounts.directory / "restored"
    assert run_again("restore", store, target).code == 0
    assert_same(expected, snapshot(target), "the second machine's version")
    log = run_again("log", store, "--json").json
    assert [each["version"] for each in log] == [2, 1]


STORIES: dict[str, TellStory] = {
    "a training run": of_a_training_run,
    "deaths": through_deaths,
    "a takeover": of_a_takeover,
}


def mount_again(mounts: Mounts, store: str, **options: object) -> Mount:
    """Mount, again when the store did not answer. Mounting may fail so; it must not leave anything wrong behind."""
    for _ in range(_TRIES):
        try:
            return mounts(store, **options)
        except MountFailedError as error:
            if error.number not in (errno.EIO, errno.EACCES):
                raise
            failure = error
    raise failure


def run_again(*arguments: str | Path) -> Run:
    """Run a command, again when the store did not answer. It fails in the one form that failures have."""
    for _ in range(_TRIES):
        done = ckptfs(*arguments, timeout_s=_PATIENCE_S)
        if done.code == 0:
            break
        assert "ckptfs: error: " in done.err, done
        assert "Traceback" not in done.err, done
    return done


def sync_again(mounted: Mount) -> None:
    """Wait until all is durable, however long that takes."""
    for _ in range(_TRIES):
        try:
            mounted.sync()
            return
        except OSError as error:
            failure = error
    raise failure


def read_again(root: Path) -> Snapshot:
    """Read a tree; a read may fail, as EIO says, and succeeds when it is done again."""
    for _ in range(_TRIES):
        try:
            return snapshot(root)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            failure = error
    raise failure


def _touch_errno(mounted: Mount) -> int:
    try:
        touch(mounted.root)
    except OSError as error:
        return error.errno or -1
    return 0


def _train(root: Path, chance: random.Random, step: int) -> None:
    """Change a model in part, append to a log, and write a small file."""
    weights = root / "weights.bin"
    if not weights.exists():
        weights.write_bytes(chance.randbytes(9 << 20))
    with weights.open("r+b") as file:
        file.seek(chance.randrange(8 << 20))
        file.write(chance.randbytes(100_000))
    with (root / "log.txt").open("a") as log:
        log.write(f"step {step}\n" * 1000)
    directory = root / f"checkpoint-{step}"
    directory.mkdir()
    (directory / "state.json").write_text(json.dumps({"step": step}))
    os.symlink(directory.name, root / "last.tmp")
    os.rename(root / "last.tmp", root / "last")
