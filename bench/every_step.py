"""`python -m bench.every_step`: a loop that saves a small model at every step, beside one that saves nothing.

Beside both, one that writes the model to the disk and no more: what the disk takes from a loop is no cost of the mount.

A network of two layers (150 KB) is trained with numpy on scikit-learn's digits; a step takes about 0.1 s on one core.
The loops run in turns, in processes of their own. Their time alone counts, not what is uploaded after them. It is given
as processor time, too, of the loop and of the mount's process that it waits for: what it takes where nothing else runs.

Once numpy has one thread, as a small model wants it, so that uploading finds a processor that is idle. Once more the
thread stays on its processor: on a virtual machine the step after a move may take a fifth longer, whatever the cause.
And once there is a thread for each processor, which waits for the others by spinning: whatever else runs makes all of
them wait. How often Linux moved the loop to another processor is said, too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import ckptfs
from bench.figures import RESULTS, Figure, stamp, write_figures

_TARGET = 1.05
_HIDDEN = 256
_NOTHING, _DISK = "saves nothing", "writes to the disk"


def main() -> int:
    """Run rounds of all loops, or one loop."""
    parser = argparse.ArgumentParser(prog="python -m bench.every_step", description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", type=Path, help="run one loop in this directory, saving if it is in a mount")
    parser.add_argument("--writes", action="store_true", help="outside of mounts: write the model nevertheless")
    parser.add_argument("--stays", action="store_true", help="run the loop on one processor")
    arguments = parser.parse_args()
    if arguments.loop is not None:
        if arguments.stays:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(_train(arguments.loop, arguments.steps, arguments.writes)))
        return 0
    cases = [
        _Case(1, "one thread", stays=False),
        _Case(1, "one thread that stays on its processor", stays=True),
        _Case(len(os.sched_getaffinity(0)), "a thread for each processor", stays=False),
    ]
    for number in range(arguments.rounds):
        for case in cases:
            _round(number, arguments.steps, case)
            took = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in case.loops.peers.items())
            print(f"round {number}, {case.name}: ckptfs {case.loops.ours[-1]:.2f} s, {took}")
    figures = [figure for case in cases for figure in case.figures]
    print(*(figure.line() for figure in figures), sep="\n")
    write_figures(RESULTS / f"every-step-{stamp()}.json", figures, {"steps": arguments.steps})
    return 0 if all(case.loops.is_met for case in cases) else 1


class _Case:
    """Loops whose arrays are multiplied by so many threads."""

    def __init__(self, threads: int, name: str, *, stays: bool) -> None:
        self.threads, self.name, self.stays = threads, name, stays
        self.loops = Figure(name=f"saves every step, {name}", unit="s", against=_NOTHING, target=_TARGET)
        self.beside_disk = Figure(name="the same", unit="s", against=_DISK)
        self.work = Figure(name="the same, processor time", unit="s", against=_NOTHING, target=_TARGET)
        self.stalls = Figure(name="stall of a save, the quickest tenth", unit="ms")
        self.moves = {
            side: Figure(name=f"moves to another processor, {side}", unit="moves")
            for side in ("ckptfs", _NOTHING, _DISK)
        }

    @property
    def figures(self) -> list[Figure]:
        """All that is measured of it."""
        return [self.loops, self.beside_disk, self.work, self.stalls, *self.moves.values()]


def _round(number: int, steps: int, case: _Case) -> None:
    with tempfile.TemporaryDirectory(prefix="ckptfs-every-step-") as scratch:
        mountpoint, plain = Path(scratch, "mnt"), Path(scratch, "plain")
        mountpoint.mkdir()
        plain.mkdir()
        _ckptfs("mount", f"file://{scratch}/store", mountpoint, "--cache-dir", Path(scratch, "cache"))
        try:
            server = ckptfs.checkpoint(mountpoint).info()["pid"]
            before_s = _processor_s(server)
            sides = [("ckptfs", mountpoint), (_NOTHING, plain), (_DISK, plain)]
            # each is first, second and last in turn
            sides = sides[number % 3 :] + sides[: number % 3]
            done = {name: _loop(directory, steps, case, writes=name == _DISK) for name, directory in sides}
            saved = ckptfs.checkpoint(mountpoint)
            waited_for_s = _processor_s(server) - before_s
            if len(saved.list()) != steps or saved.list()[0].wait(60).note != {"step": steps - 1}:
                raise RuntimeError(f"of {steps} saves there are {len(saved.list())} versions")
        finally:
            _ckptfs("umount", mountpoint)
    for figure in (case.loops, case.beside_disk):
        figure.add({name: result["took_s"] for name, result in done.items()})
    case.work.add({name: result["processor_s"] for name, result in done.items()})
    case.work.ours[-1] += waited_for_s
    case.stalls.add({"ckptfs": 1000 * done["ckptfs"]["stall_s"]})
    for name, result in done.items():
        case.moves[name].add({"ckptfs": result["moves"]})


def _loop(directory: Path, steps: int, case: _Case, *, writes: bool) -> dict[str, Any]:
    command: list[str | Path] = [sys.executable, "-m", "bench.every_step", "--loop", directory, "--steps", str(steps)]
    command += ["--writes"] * writes + ["--stays"] * case.stays
    # of the libraries that numpy may have been built with
    limits = {f"{library}_NUM_THREADS": str(case.threads) for library in ("OPENBLAS", "MKL", "OMP")}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | limits, check=True)
    return dict(json.loads(done.stdout))


def _processor_s(pid: int) -> float:
    """Return the processor time of one process, without its children (s)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    # utime and stime: fields 14 and 15 of proc(5), the first two are cut off
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _ckptfs(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "ckptfs", *arguments], stdout=subprocess.DEVNULL, check=True)


def _moves() -> int:
    """Return how often this thread was moved to another processor."""
    for line in Path("/proc/thread-self/sched").read_text().splitlines():
        if line.startswith("se.nr_migrations"):
            return int(line.rpartition(":")[2])
    return 0  # a kernel without CONFIG_SCHED_DEBUG


def _train(directory: Path, steps: int, writes: bool) -> dict[str, float]:
    """Train; return how long all took, and how much of it the saves."""
    features, labels = load_digits(return_X_y=True)
    features, wanted = np.tile(features / 16, (16, 1)), np.tile(np.eye(10)[labels], (16, 1))
    random = np.random.default_rng(7)
    weights = [random.normal(0, 0.1, (64, _HIDDEN)), random.normal(0, 0.1, (_HIDDEN, 10))]
    saved = ckptfs.checkpoint(directory) if (directory / ".save").exists() else None
    stalls_s, began_s, worked_s = [0.0] * steps, time.perf_counter(), time.process_time()
    moves = _moves()
    for step in range(steps):
        hidden = np.tanh(features @ weights[0])
        scores = np.exp(hidden @ weights[1])
        error = (scores / scores.sum(axis=1, keepdims=True) - wanted) / len(wanted)
        slopes = [features.T @ ((error @ weights[1].T) * (1 - hidden**2)), hidden.T @ error]
        weights = [weight - slope for weight, slope in zip(weights, slopes, strict=True)]
        if saved is not None or writes:
            save_began_s = time.perf_counter()
            with (directory / "model.npz").open("wb") as file:
                np.savez(file, *weights)
            if saved is not None:
                saved.save({"step": step})
            stalls_s[step] = time.perf_counter() - save_began_s
    return {
        "took_s": time.perf_counter() - began_s,
        "processor_s": time.process_time() - worked_s,
        "moves": _moves() - moves,
        "stall_s": sorted(stalls_s)[steps // 10],
    }


if __name__ == "__main__":
    sys.exit(main())
