"""`python -m tests.fuzz`: feeds every decoder hostile bytes for some time; prints inputs tried and failures.

Each target runs in a process of its own, with bounded memory and a time limit for each input. With atheris installed,
inputs are guided by the code that they reach (guided.py); else they are mutated at random. What fails is kept in
`fuzz-failures/`, and fails again with `python -m tests.fuzz --input FILE --target NAME`. `--keep` adds what reached new
code to the corpus.
"""

import argparse
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from types import FrameType
from typing import NamedTuple

from tests.fuzz.mutating import Explorer
from tests.fuzz.targets import CORPUS, TARGETS

FAILURES = Path("fuzz-failures")
_MEMORY_BYTES = 2 << 30
"""Address space of a process that mutates at random: the largest value that is asked of a decoder is 1 MiB."""
_INPUT_S = 10
_MOST_KEPT_BYTES = 1024
_MOST_KEPT = 16


class Outcome(NamedTuple):
    """Of one target."""

    inputs: int
    failures: int


def main() -> int:
    """Run the fuzzer; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=180, help="in all  [default: 180]")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only these")
    parser.add_argument("--engine", choices=("atheris", "random"), help="[default: atheris if it is there]")
    parser.add_argument("--keep", action="store_true", help="add inputs that reach new code to the corpus (atheris)")
    parser.add_argument("--input", type=Path, help="feed this file to the target, and nothing else")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.target or list(TARGETS)
    if given.input is not None:
        print("understood" if TARGETS[names[0]].run(given.input.read_bytes()) else "refused")
        return 0
    seconds = max(1, given.seconds // len(names))
    if given.worker:
        return _mutate_at_random(names[0], given.seconds)
    engine = given.engine or ("atheris" if find_spec("atheris") else "random")
    print(f"{engine}, {seconds} s for each of {len(names)} targets")
    total = Outcome(0, 0)
    for name in names:
        outcome = _guided(name, seconds, keep=given.keep) if engine == "atheris" else _at_random(name, seconds)
        print(f"{name:<12} {outcome.inputs:>10,} inputs  {outcome.failures} failures", flush=True)
        total = Outcome(total.inputs + outcome.inputs, total.failures + outcome.failures)
    print(f"{'all':<12} {total.inputs:>10,} inputs  {total.failures} failures")
    return 1 if total.failures else 0


def _at_random(name: str, seconds: int) -> Outcome:
    command = [sys.executable, "-m", "tests.fuzz", "--worker", "--target", name, "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds + 120, check=False)
    match = re.search(r"(\d+) (\d+)$", done.stdout.strip())
    return Outcome(int(match[1]), int(match[2])) if match else Outcome(0, 1)


def _mutate_at_random(name: str, seconds: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"an input took more than {_INPUT_S} s")

    signal.signal(signal.SIGALRM, too_long)
    target, end_s = TARGETS[name], time.monotonic() + seconds
    tried = failed = 0
    explorer = Explorer(target, target.seeds(name), SystemRandom())
    while time.monotonic() < end_s:
        tried += 1
        signal.alarm(_INPUT_S)
        try:
            explorer.step()
        except Exception:
            failed += 1
            FAILURES.mkdir(exist_ok=True)
            path = FAILURES / f"{name}-{failed}"
            path.write_bytes(explorer.data)
            print(f"{path}\n{traceback.format_exc()}", file=sys.stderr)
        signal.alarm(0)
    print(tried, failed)
    return 0


def _guided(name: str, seconds: int, *, keep: bool) -> Outcome:
    FAILURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as found, tempfile.TemporaryDirectory() as seeds:
        for index, data in enumerate(TARGETS[name].seeds(name)):
            (Path(seeds) / str(index)).write_bytes(data)
        before = set(FAILURES.iterdir())
        limits = [f"-max_total_time={seconds}", f"-timeout={_INPUT_S}", f"-rss_limit_mb={_MEMORY_BYTES >> 20}"]
        done = _run_guided(name, *limits, "-max_len=65536", f"-artifact_prefix={FAILURES}/{name}-", found, seeds)
        failures = len(set(FAILURES.iterdir()) - before)
        if keep and not failures:
            _keep(name, found)
    match = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    if failures or match is None:
        print(done.stderr[-4000:], file=sys.stderr)
    if not any(FAILURES.iterdir()):
        FAILURES.rmdir()
    return Outcome(int(match[1]) if match else 0, failures or int(match is None))


def _run_guided(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.fuzz.guided", name, "-print_final_stats=1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _keep(name: str, found: str) -> None:
    """Add the smallest of what reached code that no example reaches, but not in place of any."""
    paths = sorted(Path(found).iterdir(), key=lambda path: path.stat().st_size)
    for path in [path for path in paths if path.stat().st_size <= _MOST_KEPT_BYTES][:_MOST_KEPT]:
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, CORPUS / name / path.name[:16])


if __name__ == "__main__":
    sys.exit(main())
