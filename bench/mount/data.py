"""Parts that move bytes: sequential and random reads and writes, mappings."""

import mmap
import os
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.mount.results import Result, paired
from bench.mount.scene import Scene

_MIB = 1 << 20
_RANDOM_READS = 20_000
_NAME = "data"
# 1/0.95: a speed of 0.95 of native or better
_SPEED_TARGET = 1 / 0.95


def measure_data(scene: Scene, size_bytes: int, rounds: int) -> Iterator[Result]:
    """Measure everything on one large file."""
    work = f"{size_bytes // _MIB} MiB"
    for call in (1, 16):
        result = Result(name=f"write, calls of {call} MiB", work=work, target=_SPEED_TARGET)
        block = os.urandom(call * _MIB)
        yield paired(result, scene, rounds, partial(_write, size_bytes, block))
    block = os.urandom(16 * _MIB)
    for top in (scene.native, scene.mount):
        _fill(top / _NAME, size_bytes, block)
    for call in (1, 16):
        result = Result(name=f"read from disk, calls of {call} MiB", work=work, target=_SPEED_TARGET)
        yield paired(result, scene, rounds, partial(_read_cold, scene, call * _MIB))
        result = Result(name=f"read again, calls of {call} MiB", work=work, target=_SPEED_TARGET)
        yield paired(result, scene, rounds, partial(_read, call * _MIB))
    result = Result(name="read through a mapping", work=work, target=_SPEED_TARGET)
    yield paired(result, scene, rounds, _read_mapped)
    result = Result(name="read 4 KiB at random", work=f"{_RANDOM_READS} calls")
    yield paired(result, scene, rounds, _read_randomly)
    for top in (scene.native, scene.mount):
        (top / _NAME).unlink()


def _fill(path: Path, size_bytes: int, block: bytes) -> float:
    started_s = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(size_bytes // len(block)):
        os.write(fd, block)
    os.close(fd)
    return time.perf_counter() - started_s


def _write(size_bytes: int, block: bytes, top: Path) -> float:
    path = top / "written"
    took_s = _fill(path, size_bytes, block)
    # with its dirty pages, so that the next one does not wait for them to be written
    path.unlink()
    return took_s


def _read(call_bytes: int, top: Path) -> float:
    buffer = memoryview(bytearray(call_bytes))
    started_s = time.perf_counter()
    fd = os.open(top / _NAME, os.O_RDONLY)
    while os.readv(fd, [buffer]):
        pass
    os.close(fd)
    return time.perf_counter() - started_s


def _read_cold(scene: Scene, call_bytes: int, top: Path) -> float:
    scene.forget_pages(top / _NAME)
    return _read(call_bytes, top)


def _read_mapped(top: Path) -> float:
    buffer = memoryview(bytearray(16 * _MIB))
    started_s = time.perf_counter()
    fd = os.open(top / _NAME, os.O_RDONLY)
    with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as view, memoryview(view) as source:
        for offset in range(0, len(source), len(buffer)):
            buffer[:] = source[offset : offset + len(buffer)]
    os.close(fd)
    return time.perf_counter() - started_s


def _read_randomly(top: Path) -> float:
    fd = os.open(top / _NAME, os.O_RDONLY)
    pages = os.fstat(fd).st_size // 4096
    offsets = [4096 * page for page in random.Random(1).choices(range(pages), k=_RANDOM_READS)]
    started_s = time.perf_counter()
    for offset in offsets:
        os.pread(fd, 4096, offset)
    took_s = time.perf_counter() - started_s
    os.close(fd)
    return took_s
