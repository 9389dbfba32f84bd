"""`python -m bench.versions`: store every sequence in ckptfs and in other ways; write JSON and plots."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench.figures import RESULTS, facts, stamp, write_document
from bench.sequences import LONG, NAMES, load_sequences
from bench.sequences import Sequence as Trained
from bench.versions import coders, restic
from bench.versions.dedup import METHODS, Dedup
from bench.versions.draw import draw_growth, draw_percents
from bench.versions.entropy import floor_bytes
from bench.versions.product import store_in_ckptfs
from bench.versions.stored import Stored

_TARGETS = {
    "fp32-adamw-3e-4": 75.0,
    "fp32-adamw-1e-5": 70.0,
    "bf16-and-fp32": 74.0,
    "fine-tune": 38.0,
    "lora-merged": 26.0,
    "xgboost-ubj": 3.0,
    "xgboost-json": 3.0,
    "sqlite": 3.0,
}
"""The most that the version after the first may take, % of its files."""
_QUICK = ("xgboost-ubj", "xgboost-json", "sqlite")
_MEAN_TARGET = 4.0
"""By how many points the mean over all versions may be above that of the second."""
_FLOOR = "entropy floor"
_FEW_BYTES = 64 << 20
"""A coder that knows one version only makes the same of all; larger sequences are coded at two versions."""


def main() -> int:
    """Measure what was asked for."""
    arguments = _arguments()
    results: dict[str, list[Stored]] = {}
    skipped: set[str] = set()
    for name, sequence in load_sequences(arguments.sequences, arguments.names).items():
        results[name] = _measure(sequence, arguments, skipped)
        _print(name, results[name])
    for line in sorted(skipped):
        print(f"skipped: {line}")
    _write(results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.versions", description=__doc__)
    every = [*NAMES, LONG]
    parser.add_argument("names", nargs="*", metavar="NAME", default=every, help=f"of {', '.join(every)}")
    parser.add_argument("--sequences", type=Path, default=RESULTS / "sequences", help="where they are kept")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where all else happens")
    parser.add_argument("--ours", action="store_true", help="ckptfs alone")
    parser.add_argument("--quick", action="store_true", help="only what takes seconds to make: trees and trials")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.names = [name for name in arguments.names if name in _QUICK]
    return arguments


def _measure(sequence: Trained, arguments: argparse.Namespace, skipped: set[str]) -> list[Stored]:
    ours = store_in_ckptfs(sequence, arguments.directory)
    rows = [ours]
    if arguments.ours:
        return rows
    last = len(sequence) - 1
    numbers: Sequence[int] = range(last + 1) if ours.raw_bytes[0] <= _FEW_BYTES else (1, last)
    for method, make in coders.MAKERS.items():
        try:
            coder = make()
        except ImportError:
            skipped.add(f"{method} is not installed")
            continue
        rows.append(_by_version(method, ours, numbers, sequence, partial(coders.coded_bytes, coder)))
    for method, cut in METHODS.items():
        rows.append(_by_version(method, ours, range(last + 1), sequence, Dedup(cut).add))
    floor = floor_bytes(sequence.files(1), sequence.files(0))
    rows.append(Stored(_FLOOR, ours.raw_bytes, {1: floor}))
    if restic.is_installed():
        rows.append(Stored("restic", ours.raw_bytes, restic.store_in_restic(sequence, arguments.directory)))
    else:
        skipped.add("restic is not installed")
    return rows


def _by_version(
    method: str, ours: Stored, numbers: Sequence[int], sequence: Trained, store: Callable[[list[bytes]], int]
) -> Stored:
    return Stored(method, ours.raw_bytes, {number: store(list(sequence.files(number).values())) for number in numbers})


def _print(name: str, rows: Sequence[Stored]) -> None:
    megabytes = rows[0].raw_bytes[1] / 1e6
    print(f"{name}, {megabytes:.1f} MB a version, % of that:", flush=True)
    for stored in rows:
        verdict = ""
        if stored.method == "ckptfs" and name in _TARGETS:
            target = _TARGETS[name]
            verdict = f"  target {target:g}: {_word(stored.first_percent <= target)}"
            verdict += f", mean within {_MEAN_TARGET:g} of it: {_word(stored.mean_percent <= target + _MEAN_TARGET)}"
            peers = [other.first_percent for other in rows if other.method in coders.MAKERS]
            if peers:
                verdict += f", below every coder: {_word(stored.first_percent < min(peers))}"
        each = " ".join(f"{stored.percent(number):.1f}" for number in stored.added_bytes)
        line = f"  {stored.method:18} second {stored.first_percent:5.1f}  mean {stored.mean_percent:5.1f}{verdict}"
        print(line + (f"  ({each})" if stored.method == "ckptfs" else ""), flush=True)


def _word(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _write(results: Mapping[str, Sequence[Stored]]) -> None:
    when = stamp()
    document = {
        "facts": facts(),
        "targets_percent": _TARGETS,
        "sequences": {name: [asdict(stored) for stored in rows] for name, rows in results.items()},
    }
    write_document(RESULTS / f"versions-{when}.json", document)
    try:
        shown = {name: rows for name, rows in results.items() if name != LONG}
        if shown:
            draw_percents(shown, RESULTS / f"versions-{when}.svg")
        if LONG in results:
            draw_growth(LONG, results[LONG], RESULTS / f"versions-growth-{when}.svg")
    except ImportError:
        print("no plots: matplotlib is not installed")


if __name__ == "__main__":
    sys.exit(main())
