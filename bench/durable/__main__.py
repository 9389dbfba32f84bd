"""`python -m bench.durable`: saves and restores on one S3 server beside s5cmd and boto3; write JSON and plots."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.durable.checkpoints import TARGETS, measure_checkpoints
from bench.durable.draw import draw_ratios
from bench.durable.opening import measure_first_byte, measure_history
from bench.durable.place import Place
from bench.durable.small import measure_many, measure_mixed, measure_unchanged
from bench.durable.timeline import draw_save, record_save
from bench.figures import RESULTS, Figure, stamp, write_document, write_figures
from bench.proxy import CountingProxy
from bench.sequences import Sequence, load_sequences
from demo.seaweedfs import SeaweedFS

_SMALLEST = "lora-merged"
"""For the parts in which the size of the files is no matter."""
_LARGEST = "fp32-adamw-3e-4"
_PARTS = ("checkpoints", "unchanged", "mixed", "many", "first-byte", "history", "timeline")


def main() -> int:
    """Measure what was asked for."""
    arguments = _arguments()
    figures: list[Figure] = []
    when = stamp()
    with tempfile.TemporaryDirectory(prefix="ckptfs-durable-", dir=arguments.directory) as scratch:
        with SeaweedFS(Path(scratch, "server")) as server, CountingProxy(server.endpoint) as proxy:
            place = Place(server, proxy, Path(scratch))
            for name, measure in _parts(place, arguments).items():
                if name not in arguments.parts:
                    continue
                for figure in measure():
                    figures.append(figure)
                    print(figure.line(), flush=True)
            if "timeline" in arguments.parts:
                _timeline(place, _load(arguments, _SMALLEST if arguments.quick else _LARGEST), when)
    if figures:
        _write(figures, arguments, when)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.durable", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest checkpoint only; 1,000 versions")
    parser.add_argument("--rounds", type=int, default=7, choices=range(1, 9), metavar="1-8")
    parser.add_argument("--parts", nargs="*", default=_PARTS, choices=_PARTS)
    parser.add_argument("--names", nargs="*", default=list(TARGETS), choices=list(TARGETS), help="for checkpoints")
    parser.add_argument("--sequences", type=Path, default=RESULTS / "sequences", help="where they are kept")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where all else happens")
    return parser.parse_args()


def _parts(place: Place, arguments: argparse.Namespace) -> dict[str, Callable[[], Iterable[Figure]]]:
    rounds: int = arguments.rounds

    def checkpoints() -> Iterable[Figure]:
        for name in [_SMALLEST] if arguments.quick else arguments.names:
            yield from measure_checkpoints(place, _load(arguments, name), rounds)

    return {
        "checkpoints": checkpoints,
        "unchanged": lambda: measure_unchanged(place, _load(arguments, _SMALLEST), rounds),
        "mixed": lambda: measure_mixed(place, rounds),
        "many": lambda: measure_many(place, rounds),
        "first-byte": lambda: measure_first_byte(
            place, _load(arguments, _SMALLEST if arguments.quick else _LARGEST), rounds
        ),
        "history": lambda: measure_history(place, 1_000 if arguments.quick else 10_000, rounds),
    }


def _load(arguments: argparse.Namespace, name: str) -> Sequence:
    return load_sequences(arguments.sequences, [name])[name]


def _timeline(place: Place, sequence: Sequence, when: str) -> None:
    save = record_save(place, sequence)
    write_document(RESULTS / f"durable-timeline-{when}.json", save)
    try:
        draw_save(save, RESULTS / f"durable-timeline-{when}.svg")
    except ImportError:
        print("no plot: matplotlib is not installed")


def _write(figures: list[Figure], arguments: argparse.Namespace, when: str) -> None:
    more = {"quick": arguments.quick, "rounds": arguments.rounds, "server": "SeaweedFS on loopback"}
    write_figures(RESULTS / f"durable-{when}.json", figures, more)
    if any(figure.peers for figure in figures):
        title = f"ckptfs beside peers, SeaweedFS on loopback, {os.cpu_count()} processors, {when[:10]}"
        try:
            draw_ratios(figures, title, RESULTS / f"durable-{when}.svg")
        except ImportError:
            print("no plot: matplotlib is not installed")


if __name__ == "__main__":
    sys.exit(main())
