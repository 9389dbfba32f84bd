"""Simulate many schedules: `make simulate`, or `python -m tests.versions.simulate --help`.

Prints how many were simulated, how many broke a promise, and the seed of each that did: `--first SEED --schedules 1`
runs that one again, alike in every step. Exit code 1 if any did.
"""

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.versions.simulation import Simulation

_LINE_EVERY_S = 30.0
_MOST_SHOWN = 5


class Outcome(NamedTuple):
    """What became of one schedule."""

    seed: int
    requests: int
    """To the store."""
    failure: str
    """Empty: every promise was kept."""


def simulate(seed: int) -> Outcome:
    """Run one schedule."""
    simulation = Simulation(seed)
    try:
        simulation.run()
    except Exception:
        return Outcome(seed, len(simulation.store.requests), traceback.format_exc())
    return Outcome(seed, len(simulation.store.requests), "")


def _outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(simulate, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(simulate, seeds, chunksize=20)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run schedules; return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.versions.simulate", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    started_s = shown_s = time.monotonic()
    done = requests = 0
    failed: list[int] = []
    for outcome in _outcomes(range(options.first, options.first + options.schedules), options.jobs):
        done += 1
        requests += outcome.requests
        if outcome.failure:
            failed.append(outcome.seed)
            if len(failed) <= _MOST_SHOWN:
                _say(f"seed {outcome.seed}:\n{outcome.failure}")
        if time.monotonic() - shown_s > _LINE_EVERY_S:
            shown_s = time.monotonic()
            _say(f"{done} of {options.schedules} schedules, {len(failed)} violations")
    took_s = time.monotonic() - started_s
    _say(f"{done} schedules of {requests} requests simulated in {took_s:.0f} s, {len(failed)} violations")
    if failed:
        _say(f"seeds: {' '.join(map(str, sorted(failed)))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
