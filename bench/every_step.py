"""`python -m bench.every_step`: a loop that saves a small model at every step, beside one that saves nothing.

A network of two layers (150 KB) is trained with numpy on scikit-learn's digits; a step takes about 0.1 s on one core.
The loops run in turns, in processes of their own. Their time alone counts, not what is uploaded after them.
"""

import argparse
import json
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


def main() -> int:
    """Run rounds of both loops, or one loop."""
    parser = argparse.ArgumentParser(prog="python -m bench.every_step", description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", type=Path, help="run one loop in this directory, saving if it is in a mount")
    arguments = parser.parse_args()
    if arguments.loop is not None:
        print(json.dumps(_train(arguments.loop, arguments.steps)))
        return 0
    loops = Figure(name="a loop that saves every step", unit="s", against="saves nothing", target=_TARGET)
    stalls = Figure(name="stall of a save", unit="ms")
    for number in range(arguments.rounds):
        _round(number, arguments.steps, loops, stalls)
        print(f"round {number}: saving {loops.ours[-1]:.2f} s, not saving {loops.peers['saves nothing'][-1]:.2f} s")
    print(loops.line(), stalls.line(), sep="\n")
    write_figures(RESULTS / f"every-step-{stamp()}.json", [loops, stalls], {"steps": arguments.steps})
    return 0 if loops.is_met else 1


def _round(number: int, steps: int, loops: Figure, stalls: Figure) -> None:
    with tempfile.TemporaryDirectory(prefix="ckptfs-every-step-") as scratch:
        mountpoint, plain = Path(scratch, "mnt"), Path(scratch, "plain")
        mountpoint.mkdir()
        plain.mkdir()
        _ckptfs("mount", f"file://{scratch}/store", mountpoint, "--cache-dir", Path(scratch, "cache"))
        try:
            sides = [("ckptfs", mountpoint), ("saves nothing", plain)]
            done = {name: _loop(directory, steps) for name, directory in sides[:: 1 if number % 2 else -1]}
            saved = ckptfs.checkpoint(mountpoint)
            if len(saved.list()) != steps or saved.list()[0].wait(60).note != {"step": steps - 1}:
                raise RuntimeError(f"of {steps} saves there are {len(saved.list())} versions")
        finally:
            _ckptfs("umount", mountpoint)
    loops.add({name: result["took_s"] for name, result in done.items()})
    stalls.add({"ckptfs": 1000 * done["ckptfs"]["stall_s"] / steps})


def _loop(directory: Path, steps: int) -> dict[str, Any]:
    command: list[str | Path] = [sys.executable, "-m", "bench.every_step", "--loop", directory, "--steps", str(steps)]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def _ckptfs(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "ckptfs", *arguments], stdout=subprocess.DEVNULL, check=True)


def _train(directory: Path, steps: int) -> dict[str, float]:
    """Train; return how long all took, and how much of it the saves."""
    features, labels = load_digits(return_X_y=True)
    features, wanted = np.tile(features / 16, (16, 1)), np.tile(np.eye(10)[labels], (16, 1))
    random = np.random.default_rng(7)
    weights = [random.normal(0, 0.1, (64, _HIDDEN)), random.normal(0, 0.1, (_HIDDEN, 10))]
    saved = ckptfs.checkpoint(directory) if (directory / ".save").exists() else None
    stall_s, began_s = 0.0, time.perf_counter()
    for step in range(steps):
        hidden = np.tanh(features @ weights[0])
        scores = np.exp(hidden @ weights[1])
        error = (scores / scores.sum(axis=1, keepdims=True) - wanted) / len(wanted)
        slopes = [features.T @ ((error @ weights[1].T) * (1 - hidden**2)), hidden.T @ error]
        weights = [weight - slope for weight, slope in zip(weights, slopes, strict=True)]
        if saved is not None:
            save_began_s = time.perf_counter()
            with (directory / "model.npz").open("wb") as file:
                np.savez(file, *weights)
            saved.save({"step": step})
            stall_s += time.perf_counter() - save_began_s
    return {"took_s": time.perf_counter() - began_s, "stall_s": stall_s}


if __name__ == "__main__":
    sys.exit(main())
