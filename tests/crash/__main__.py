"""Crash points: `python -m tests.crash [--kills N] [--recoveries N] [--power-cuts N] [--kinds ext4,xfs]`.

Kills the scenario at every durable step; kills recoveries at every step of theirs; cuts the power at every step. A
number takes a sample of so many, spread evenly. Prints what was tried; any violation is printed and makes exit code 1.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.crash.runs import Outcome, Runner
from tests.crash.scenario import write_script

# of a recovery: it has fewer, or something is badly wrong
_MOST_RECOVERY_STEPS = 2000


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, help="steps to kill at; all if it is not given")
    parser.add_argument("--recoveries", type=int, default=6, help="kills whose recovery is killed at each of its steps")
    parser.add_argument("--recovery-kills", type=int, help="of each; all if it is not given")
    parser.add_argument("--power-cuts", type=int, help="steps to cut the power at; all if it is not given")
    parser.add_argument("--kinds", default="ext4,xfs", help="filesystems whose power is cut; may be empty")
    parser.add_argument("--directory", default="/dev/shm", help="where to work (default: /dev/shm)")
    arguments = parser.parse_args()
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="ckptfs-crash-", dir=arguments.directory) as directory:
        runner = Runner(Path(directory), write_script())
        outcome.steps, outcome.kinds = runner.count()
        print(f"{outcome.steps} steps: {', '.join(f'{count} {kind}' for kind, count in outcome.kinds.most_common())}")
        _kill(runner, outcome, _spread(outcome.steps, arguments.kills))
        _kill_recoveries(runner, outcome, _spread(outcome.steps, arguments.recoveries), arguments.recovery_kills)
        for kind in filter(None, arguments.kinds.split(",")):
            _cut_power(runner, outcome, _spread(outcome.steps, arguments.power_cuts), kind)
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    print(f"{outcome.runs} crashes: {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


def _kill(runner: Runner, outcome: Outcome, steps: Sequence[int]) -> None:
    started_s = time.monotonic()
    for step in steps:
        outcome.add(f"killed at step {step}", runner.kill(step))
    print(f"killed at {len(steps)} steps, {time.monotonic() - started_s:.0f} s", flush=True)


def _kill_recoveries(runner: Runner, outcome: Outcome, steps: Sequence[int], most: int | None) -> None:
    started_s, runs = time.monotonic(), outcome.runs
    for step in steps:
        # spread over what the longest recovery takes
        stride = 1 if most is None else 200 // most
        for again in range(1, _MOST_RECOVERY_STEPS, stride):
            found = runner.kill_twice(step, again)
            if found is None:
                break
            outcome.add(f"killed at step {step}, and the recovery at its step {again}", found)
    print(
        f"recoveries from {len(steps)} of these killed at {outcome.runs - runs} steps, "
        f"{time.monotonic() - started_s:.0f} s",
        flush=True,
    )


def _cut_power(runner: Runner, outcome: Outcome, steps: Sequence[int], kind: str) -> None:
    started_s = time.monotonic()
    for step in steps:
        outcome.add(f"power cut on {kind} at step {step}", runner.cut_power(step, kind))
    print(f"power cut on {kind} at {len(steps)} steps, {time.monotonic() - started_s:.0f} s", flush=True)


def _spread(steps: int, wanted: int | None) -> Sequence[int]:
    """Return the numbers of steps: all, or as many as are wanted from the first to the last."""
    if wanted is None or wanted >= steps:
        return range(1, steps + 1)
    return [1 + index * (steps - 1) // max(1, wanted - 1) for index in range(wanted)]


if __name__ == "__main__":
    sys.exit(main())
