"""Local damage: `python -m tests.damage.local`. A cache directory, left by a kill, with one object of it damaged.

Three versions are durable, two more were captured and wait, and something was written and never saved. Then one file of
the cache directory is damaged, and the next mount takes it up: every durable version is whole, what is shown is a
version that was captured, and nothing that was not captured enters history. Prints what was tried, as JSON.
"""

import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ckptfs.errors import CkptfsError
from ckptfs.store.open import open_store
from ckptfs.transfer.restore import restore
from ckptfs.transfer.verify import verify
from ckptfs.versions.history import open_history
from tests.crash.desk import Desk, store_of
from tests.crash.runs import in_child
from tests.crash.scenario import BOOT
from tests.damage.scene import delete, flip, replace_by_an_older, swap, truncate

DURABLE, CAPTURED = 3, 5

CLASSES = {
    "pending description": "pending/*/version.json",
    "pending manifest": "pending/*/manifest",
    "pending seal": "pending/*/seal",
    "pending data": "pending/*/data/*",
    "session": "session.json",
    "anchors": "anchors/*",
    "objects": "objects/*/*",
    "journal": "journal",
}
WAYS = {"flip": flip, "truncate": truncate, "delete": delete, "swap": swap, "replace by an older": replace_by_an_older}
_JOURNAL_PLACES = {"flip": 6, "truncate": 6, "delete": 1}
Files = dict[str, bytes]
T = TypeVar("T")


def files_of(version: int) -> Files:
    """What each version holds."""
    chance = random.Random(7)
    weights = bytearray(chance.randbytes(100_000))
    found: Files = {}
    for number in range(1, version + 1):
        weights[100 * number : 100 * number + 50] = chance.randbytes(50)
        found[f"step-{number}"] = chance.randbytes(2000)
        found["weights"] = bytes(weights)
    return found


def fill(scene: Path) -> dict[str, object]:
    """Leave a cache directory as a kill leaves it."""
    desk = Desk(scene, BOOT)
    for version in range(1, CAPTURED + 1):
        for name, data in files_of(version).items():
            desk.write(name, data, truncates=True)
        desk.touch()
        if version == DURABLE:
            desk.upload()
    desk.write("unsaved", b"never saved")
    return {}


@dataclass(frozen=True, slots=True)
class Case:
    """One damage."""

    kind: str
    way: str
    index: int


def cases(cache: Path) -> list[Case]:
    """Return every class, way and number of a file that make a damage."""
    found = []
    for kind, pattern in CLASSES.items():
        count = len(list(cache.glob(pattern)))
        for way in WAYS:
            # data has no hash until it is uploaded: what a local disk does to it by itself is not seen
            if kind == "pending data" and way in ("flip", "swap", "replace by an older"):
                continue
            if kind == "journal":
                found += [Case(kind, way, index) for index in range(_JOURNAL_PLACES.get(way, 0))]
                continue
            first = 1 if way == "replace by an older" else 0
            found += [Case(kind, way, index) for index in range(first, count if way != "swap" or count > 1 else 0)]
    return found


def _spoil_journal(path: Path, case: Case, chance: random.Random) -> None:
    """Damage the journal, in one of many places; what follows the record of the newest version cannot be missed."""
    body = path.read_bytes()
    if case.way == "truncate":
        path.write_bytes(body[: chance.randrange(body.rindex(b"\0V"))])
    else:
        WAYS[case.way](path, [path], chance)


def damage(cache: Path, case: Case) -> bool:
    """Damage one file; return whether that changed anything."""
    paths = sorted(cache.glob(CLASSES[case.kind]))
    before = [path.read_bytes() for path in paths]
    chance = random.Random(f"{case}")
    if case.kind == "journal":
        _spoil_journal(paths[0], case, chance)
    else:
        WAYS[case.way](paths[case.index], paths, chance)
    return before != [path.read_bytes() if path.exists() else None for path in paths]


def judge(scene: Path, case: Case) -> dict[str, object]:
    """Take the damaged directory up, go on, and return what is wrong."""
    wrong = []
    desk = Desk(scene, BOOT)
    version = desk.version
    if not DURABLE <= version <= CAPTURED:
        wrong.append(f"version {version} is shown")
    if desk.files() != files_of(version):
        wrong.append(f"the live tree is not version {version}")
    if version < CAPTURED:
        aside = list(desk.mount.cache.aside.iterdir())
        if len(aside) != CAPTURED - version:
            wrong.append(f"{CAPTURED - version} versions are not in history and {len(aside)} are aside")
        if not case.kind.startswith(("pending", "session")):
            wrong.append("a version was not taken up")
    if not any((path / "unsaved").is_file() for path in desk.mount.cache.unsaved.iterdir()):
        wrong.append("what was never saved is nowhere")
    desk.write("more", b"more")
    desk.touch()
    desk.upload()
    desk.end()
    history = open_history(open_store(store_of(scene)))
    wrong += [str(finding) for finding in verify(history, history.store, read_data=True)]
    for number in history.numbers():
        expected = files_of(number) if number <= version else {**files_of(version), "more": b"more"}
        target = scene / f"restored-{number}"
        try:
            restore(history, history.store, history.resolve(number), target)
        except CkptfsError as error:
            wrong.append(f"version {number}: {error.fact}")
        if {path.name: path.read_bytes() for path in target.iterdir()} != expected:
            wrong.append(f"version {number} is not what was captured")
    if len(history.numbers()) != version + 1:
        wrong.append(f"history has {history.numbers()}")
    return {"wrong": wrong, "aside": CAPTURED - version}


def main() -> int:
    """Try all."""
    tried: Counter[str] = Counter()
    aside, wrong = 0, []
    with tempfile.TemporaryDirectory(prefix="ckptfs-damage-", dir="/dev/shm") as directory:
        scene = Path(directory, "scene")
        todo = _in_scene(scene, lambda cache: cases(cache))
        for case in todo:
            answer = _in_scene(scene, partial(_try, scene, case))
            if answer is not None:
                tried[case.kind] += 1
                aside += answer["aside"]
                wrong += [f"{case}: {each}" for each in answer["wrong"]]
    sys.stdout.write(json.dumps({"tried": tried, "aside": aside, "wrong": wrong}, indent=1) + "\n")
    return 1 if wrong else 0


def _in_scene(scene: Path, work: Callable[[Path], T]) -> T:
    """Do something with a cache directory as a kill has left it."""
    scene.mkdir()
    try:
        _run(scene, partial(fill, scene))
        (cache,) = (path.parent for path in (scene / "cache").glob("*/pending"))
        return work(cache)
    finally:
        shutil.rmtree(scene)


def _try(scene: Path, case: Case, cache: Path) -> dict | None:
    """Damage, and judge; None if the damage changed nothing."""
    return _run(scene, partial(judge, scene, case)) if damage(cache, case) else None


def _run(scene: Path, work: Callable[[], dict[str, object]]) -> dict:
    """Do some work in a process of its own."""
    answer = in_child(work, scene.with_name("stderr"))
    if answer is None or "violations" in answer:
        raise RuntimeError(f"it did not end: {answer}")
    return answer


if __name__ == "__main__":
    sys.exit(main())
