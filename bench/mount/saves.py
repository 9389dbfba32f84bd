"""Parts about saving: how long a touch takes, and what an upload costs a program that writes meanwhile."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from bench.mount.results import Result
from bench.mount.scene import Scene

_MIB = 1 << 20
_CHANGED = 1_000
_ROUNDS = 5
_PER_DIRECTORY = 1_000


def measure_captures(scene: Scene, file_bytes: int, tree_files: int) -> Iterator[Result]:
    """Measure touches, each after new changes."""
    yield _one_large_file(scene, file_bytes)
    yield _small_files(scene, _CHANGED, target_s=0.060)
    yield _small_files(scene, tree_files, target_s=0.100)


def _one_large_file(scene: Scene, size_bytes: int) -> Result:
    result = Result(name="touch, one changed file", work=f"{size_bytes // _MIB} MiB", target=0.010)
    path = scene.mount / "large"
    # the same block again and again: that it is uploaded once is no matter, capturing does not look at it
    block = os.urandom(16 * _MIB)
    for number in range(_ROUNDS):
        # beyond what the version before holds or in a new file: a rewrite in place would copy, as it must
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for _ in range(size_bytes // len(block)):
                file.write(block)
        time.sleep(0.5)
        result.mount_s.append(scene.save())
        if number == 0:
            scene.sync()
    scene.sync()
    path.unlink()
    return result


def _small_files(scene: Scene, files: int, target_s: float) -> Result:
    work = f"{_CHANGED} files" if files == _CHANGED else f"{_CHANGED} of {files}"
    result = Result(name="touch, many changed files", work=work, target=target_s)
    top = scene.mount / "many"
    for number in range(files):
        if number % _PER_DIRECTORY == 0:
            (top / str(number // _PER_DIRECTORY)).mkdir(parents=True)
        _path(top, number).write_bytes(b"%d" % number)
    scene.save()
    scene.sync()
    for turn in range(_ROUNDS):
        for number in range(turn, files, files // _CHANGED):
            _path(top, number).write_bytes(b"%d changed %d" % (number, turn))
        time.sleep(0.5)
        result.mount_s.append(scene.save())
        scene.sync()
    shutil.rmtree(top)
    return result


def measure_slowdown(scene: Scene, write_bytes: int, upload_bytes: int, rounds: int) -> Result:
    """Write to both sides in turn while a version uploads; rounds that outlive the upload are not counted."""
    result = Result(name="write while a version uploads", work=f"{write_bytes // _MIB} MiB", target=1.15)
    block = os.urandom(16 * _MIB)
    for number in range(rounds):
        large = scene.mount / "uploaded"
        large.unlink(missing_ok=True)
        with large.open("wb", buffering=0) as file:
            for _ in range(upload_bytes // (16 * _MIB)):
                file.write(os.urandom(16 * _MIB))
        scene.save()
        sides = [(scene.mount, result.mount_s), (scene.native, result.native_s)]
        times = [(_write(top, write_bytes, block), into) for top, into in (sides if number % 2 else sides[::-1])]
        if scene.state() == "durable":
            result.note = "rounds in which the upload ended first are left out"
        else:
            for took_s, into in times:
                into.append(took_s)
        scene.sync()
        for top, _ in sides:
            (top / "written").unlink()
    return result


def _write(top: Path, size_bytes: int, block: bytes) -> float:
    started_s = time.perf_counter()
    with (top / "written").open("wb", buffering=0) as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)
    return time.perf_counter() - started_s


def _path(top: Path, number: int) -> Path:
    return top / str(number // _PER_DIRECTORY) / f"file-{number}"
