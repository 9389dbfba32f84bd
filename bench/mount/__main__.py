"""`python -m bench.mount`: measure, print ratios with their spread, write JSON and a plot into bench/results/."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.mount.data import measure_data
from bench.mount.frameworks import measure_frameworks
from bench.mount.names import measure_names
from bench.mount.results import Result, draw, write_json
from bench.mount.saves import measure_captures, measure_slowdown
from bench.mount.scene import Scene, scene

_GIB = 1 << 30
_RESULTS = Path(__file__).parent.parent / "results"


def main() -> int:
    """Measure what was asked for."""
    arguments = _arguments()
    quick: bool = arguments.quick
    large = 256 << 20 if quick else 2 * _GIB
    model = 128 << 20 if quick else _GIB // 2
    skipped: list[str] = []

    def frameworks(place: Scene) -> list[Result]:
        results, missing = measure_frameworks(place, model, arguments.rounds)
        skipped.extend(f"{name} is not installed" for name in missing)
        return results

    parts: dict[str, Callable[[Scene], Iterable[Result]]] = {
        "data": lambda place: measure_data(place, large, arguments.rounds),
        "names": lambda place: measure_names(place, arguments.rounds),
        "frameworks": frameworks,
        "captures": lambda place: measure_captures(place, _GIB if quick else 8 * _GIB, 10_000 if quick else 100_000),
        "slowdown": lambda place: [
            measure_slowdown(place, large if quick else _GIB, _GIB if quick else 4 * _GIB, arguments.rounds)
        ],
    }
    results = []
    for name, measure in parts.items():
        if arguments.parts and name not in arguments.parts:
            continue
        with scene(arguments.directory, arguments.transport) as place:
            for result in measure(place):
                if result.mount_s:
                    results.append(result)
                    print(result.line(), flush=True)
                else:
                    skipped.append(f"{result.name}: no round counted ({result.note})")
    for line in skipped:
        print(f"skipped: {line}")
    _write(results, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.mount", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 MiB where it is 2 GiB else, and the like")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--transport", default="auto", choices=["auto", "passthrough", "fusepy"])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where all of it happens")
    parser.add_argument("--parts", nargs="*", choices=["data", "names", "frameworks", "captures", "slowdown"])
    return parser.parse_args()


def _write(results: list[Result], arguments: argparse.Namespace) -> None:
    when = time.strftime("%Y-%m-%dT%H-%M-%S")
    kernel = os.uname().release
    facts = {"time": when, "kernel": kernel, "processors": os.cpu_count(), "load_1min": os.getloadavg()[0]}
    facts |= {"quick": arguments.quick, "rounds": arguments.rounds, "transport": arguments.transport}
    _RESULTS.mkdir(exist_ok=True)
    write_json(results, facts, _RESULTS / f"mount-{when}.json")
    print(f"wrote {_RESULTS}/mount-{when}.json")
    if any(result.native_s for result in results):
        title = f"ckptfs mount, {arguments.transport}, {os.cpu_count()} processors, kernel {kernel}, {when[:10]}"
        try:
            draw(results, title, _RESULTS / f"mount-{when}.svg")
        except ImportError:
            print("no plot: matplotlib is not installed")
        else:
            print(f"wrote {_RESULTS}/mount-{when}.svg")


if __name__ == "__main__":
    sys.exit(main())
