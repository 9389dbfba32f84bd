"""Parts that move names: small files made, looked at, renamed and removed."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.mount.results import Result
from bench.mount.scene import Scene

_FILES = 2_000
_PAGE = os.urandom(4096)
# of issue 3: "create + write 4 KiB + close at most 4 times native"
_CREATE_TARGET = 4.0

_Step = Callable[[Path], None]


def measure_names(scene: Scene, rounds: int) -> list[Result]:
    """Measure each step on all files of a directory before the next."""
    steps: dict[str, _Step] = {
        "create, write 4 KiB, close": _create,
        "stat": lambda top: _each(top, os.stat),
        "stat again": lambda top: _each(top, os.stat),
        "open, read, close": lambda top: _each(top, _read),
        "list, with stat of each": _list,
        "rename": lambda top: _each(top, lambda path: os.rename(path, path + "-renamed")),
        "unlink": lambda top: _each(top, lambda path: os.unlink(path + "-renamed")),
    }
    targets = {"create, write 4 KiB, close": _CREATE_TARGET}
    results = [Result(name=name, work=f"{_FILES} files", target=targets.get(name)) for name in steps]
    for number in range(-1, rounds):
        sides = [(scene.mount, True), (scene.native, False)]
        for top, is_mount in sides if number % 2 else reversed(sides):
            directory = top / "small"
            directory.mkdir()
            for result, step in zip(results, steps.values(), strict=True):
                started_s = time.perf_counter()
                step(directory)
                took_s = time.perf_counter() - started_s
                if number >= 0:
                    (result.mount_s if is_mount else result.native_s).append(took_s)
            shutil.rmtree(directory)
    return results


def _each(top: Path, do: Callable[[str], object]) -> None:
    prefix = f"{top}/file-"
    for number in range(_FILES):
        do(f"{prefix}{number:05}")


def _create(top: Path) -> None:
    def create(path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, _PAGE)
        os.close(fd)

    _each(top, create)


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 4096)
    os.close(fd)


def _list(top: Path) -> None:
    with os.scandir(top) as entries:
        for entry in entries:
            entry.stat()
