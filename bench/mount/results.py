"""What was measured: times of both sides, their ratios, and how far these spread."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.mount.scene import Scene


@dataclass(slots=True, kw_only=True)
class Result:
    """One part of the benchmark."""

    name: str
    work: str
    """What one time stands for: "2048 MiB", "2000 files"."""
    mount_s: list[float] = field(default_factory=list)
    native_s: list[float] = field(default_factory=list)
    """Of the same rounds; empty if there is no native counterpart."""
    target: float | None = None
    """Of the ratio; of the time (s) if there is no native counterpart."""
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Mount time to native time, round by round."""
        return [mount / native for mount, native in zip(self.mount_s, self.native_s, strict=True)]

    @property
    def judged(self) -> list[float]:
        """What the target is about."""
        return self.ratios if self.native_s else self.mount_s

    def line(self) -> str:
        """Return the part as a line of a table."""
        low, middle, high = min(self.judged), statistics.median(self.judged), max(self.judged)
        unit, factor = ("x", 1.0) if self.native_s else ("ms", 1000.0)
        spread = f"{middle * factor:8.2f} {unit:2} ({low * factor:.2f} to {high * factor:.2f})"
        times = f"mount {statistics.median(self.mount_s):.4f} s"
        if self.native_s:
            times += f", native {statistics.median(self.native_s):.4f} s"
        verdict = ""
        if self.target is not None:
            verdict = f"  target {self.target * factor:.4g}: " + ("met" if middle <= self.target else "MISSED")
        return f"{self.name:34} {self.work:12} {spread:32} {times}{verdict}" + (f"  [{self.note}]" if self.note else "")


def paired(result: Result, scene: Scene, rounds: int, measure: Callable[[Path], float]) -> Result:
    """Measure mount and native directory in turn, and who goes first in turn too; one round before is not counted."""
    measure(scene.native)
    measure(scene.mount)
    for number in range(rounds):
        sides = [(scene.mount, result.mount_s), (scene.native, result.native_s)]
        for directory, times in sides if number % 2 else reversed(sides):
            times.append(measure(directory))
    return result


def write_json(results: list[Result], facts: Mapping[str, object], path: Path) -> None:
    """Write everything that was measured."""
    rows = [{**asdict(result), "ratios": result.ratios if result.native_s else None} for result in results]
    path.write_text(json.dumps({"facts": facts, "results": rows}, indent=1) + "\n")


def draw(results: list[Result], title: str, path: Path) -> None:
    """Draw the ratios with their spread (SVG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [result for result in results if result.native_s][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(shown) + 1.2), layout="constrained")
    for row, result in enumerate(shown):
        axes.plot([min(result.ratios), max(result.ratios)], [row, row], color="tab:blue", linewidth=2)
        axes.plot(statistics.median(result.ratios), row, "o", color="tab:blue")
        if result.target is not None:
            axes.plot(result.target, row, "|", color="tab:red", markersize=14)
    axes.axvline(1.0, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{result.name}, {result.work}" for result in shown])
    axes.set_xscale("log", base=2)
    axes.set_xlabel("time in the mount / time on the native filesystem (dot: median, line: range, red: target)")
    axes.set_title(title)
    figure.savefig(path)
    plt.close(figure)
