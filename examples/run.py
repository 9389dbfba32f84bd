"""Runs examples: each trains, loses its machine at a random step, and goes on elsewhere.

    python -m examples.run [NAME ...] [--s3] [--seed 7] [--write]

Everything happens in a temporary directory, which is removed at the end. Exit code 0 if all is right.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo.seaweedfs import SeaweedFS
from examples import digits, example, plot
from examples.flow_story import FlowStory
from examples.machine import ExampleError
from examples.story import Outcome, Story

BUCKET = "examples"
PLOT = "loss.svg"


def run(name: str, seed: int, server: SeaweedFS | None, scratch: Path) -> Outcome:
    """Run one example. Raises ExampleError, RuntimeError or subprocess.CalledProcessError."""
    work, data = scratch / name, scratch / "digits"
    work.mkdir()
    if not data.exists():
        digits.write(data)
    what = example.load(name)
    base = f"s3://{BUCKET}/{name}" if server else f"file://{work}/stores"
    story = FlowStory if what.again else Story
    return story(what, work, data, base, server.env if server else {}, seed).tell()


def draw(name: str, outcome: Outcome) -> None:
    """Write the picture of the README."""
    what = example.load(name)
    picture = plot.draw(
        f"{what.title}: loss by step",
        str(outcome),
        whole=outcome.whole,
        before=outcome.before,
        after=outcome.after,
        killed_step=outcome.killed_step,
        resumed_step=outcome.resumed_step,
    )
    (what.folder / PLOT).write_text(picture)


def main() -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(example.names())} (default: all)")
    parser.add_argument("--s3", action="store_true", help="keep the versions in SeaweedFS instead of a directory")
    parser.add_argument("--seed", type=int, default=7, help="decides at which steps machines are lost")
    parser.add_argument("--write", action="store_true", help=f"draw the loss curves into {PLOT} of each folder")
    arguments = parser.parse_args()
    # mounts are taken away then, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = 0
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ckptfs-examples-")))
        server = stack.enter_context(SeaweedFS()) if arguments.s3 else None
        if server:
            server.create_bucket(BUCKET)
        for name in arguments.names or example.names():
            started_s = time.monotonic()
            try:
                outcome = run(name, arguments.seed, server, scratch)
            except (ExampleError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
                continue
            print(
                f"{name} ({time.monotonic() - started_s:.0f} s): {outcome}", *outcome.served, sep="\n    ", flush=True
            )
            if arguments.write:
                draw(name, outcome)
    return os.EX_OK if not failed else 1


if __name__ == "__main__":
    sys.exit(main())
