"""`python -m bench.niceness`: how much of their time an upload takes from programs that keep every processor busy.

One busy program for each processor counts rounds, alone and while a version of 160 MB is uploaded into a directory, at
one `--upload-nice` after the other; write JSON. The time to durable is what that costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import ckptfs
from bench.figures import RESULTS, Figure, stamp, write_figures
from bench.product import run_ckptfs

_NUMBERS = 40_000_000
_ALONE_S = 3.0
# in place: a file that is cut off and written anew is waited for
_BUSY = (
    "import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY)\nrounds = 0\nwhile True:\n"
    "    for _ in range(100_000): pass\n    rounds += 1\n    os.pwrite(fd, b'%020d' % rounds, 0)\n"
)


def main() -> int:
    """Measure at each niceness."""
    parser = argparse.ArgumentParser(prog="python -m bench.niceness", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nice", type=int, nargs="*", default=[0, 10])
    arguments = parser.parse_args()
    figures = []
    for niceness in arguments.nice:
        option = f"--upload-nice {niceness}"
        speed = Figure(name=f"{option}: speed of busy programs beside an upload", unit="of theirs alone")
        durable = Figure(name=f"{option}: time to durable beside them", unit="s")
        for _ in range(arguments.rounds):
            _round(niceness, speed, durable)
        figures += [speed, durable]
        print(speed.line(), durable.line(), sep="\n", flush=True)
    write_figures(RESULTS / f"niceness-{stamp()}.json", figures, {"bytes": 4 * _NUMBERS})
    return 0


def _round(niceness: int, speed: Figure, durable: Figure) -> None:
    with tempfile.TemporaryDirectory(prefix="ckptfs-niceness-") as scratch:
        mountpoint = Path(scratch, "mnt")
        mountpoint.mkdir()
        own = ("--cache-dir", f"{scratch}/cache", "--upload-nice", str(niceness))
        run_ckptfs("mount", f"file://{scratch}/store", str(mountpoint), *own, env={})
        try:
            np.random.default_rng(7).standard_normal(_NUMBERS, np.float32).tofile(mountpoint / "model.bin")
            with _busy(Path(scratch)) as counts:
                alone = _speed(counts, lambda: time.sleep(_ALONE_S))
                saved = ckptfs.checkpoint(mountpoint)
                began_s = time.perf_counter()
                beside = _speed(counts, lambda: saved.save().wait(600))
                durable.ours.append(time.perf_counter() - began_s)
            speed.ours.append(beside / alone)
        finally:
            run_ckptfs("umount", str(mountpoint), env={})


@contextmanager
def _busy(scratch: Path) -> Iterator[list[Path]]:
    """Keep every processor busy by programs of a session of their own; give the files in which they count."""
    counts = [scratch / f"count-{number}" for number in range(os.cpu_count() or 1)]
    for count in counts:
        count.write_text("0")
    programs = [subprocess.Popen([sys.executable, "-c", _BUSY, count], start_new_session=True) for count in counts]
    try:
        while not all(int(count.read_text()) for count in counts):
            time.sleep(0.05)
        yield counts
    finally:
        for program in programs:
            program.kill()
            program.wait(60)


def _speed(counts: list[Path], work: Callable[[], object]) -> float:
    """Return how many rounds a second were counted during some work."""
    before, began_s = _rounds(counts), time.perf_counter()
    work()
    return (_rounds(counts) - before) / (time.perf_counter() - began_s)


def _rounds(counts: list[Path]) -> int:
    return sum(int(count.read_text()) for count in counts)


if __name__ == "__main__":
    sys.exit(main())
