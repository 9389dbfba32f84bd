"""Figures: what was measured round by round, here and with a peer, and whether that is what was aimed for."""

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True, kw_only=True)
class Figure:
    """One thing that was measured, some rounds of it."""

    name: str
    unit: str
    """s, MB, %, requests; of what was measured, on both sides."""
    ours: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    """By name: what a peer took in the same rounds."""
    against: str = ""
    """The peer that the target is a ratio to; empty: the target is about our own figure."""
    target: float | None = None
    """The most that the median may be."""
    note: str = ""

    def add(self, values: Mapping[str, float]) -> None:
        """Add a round: ours under the name ckptfs, and every peer's under its own."""
        for name, value in values.items():
            (self.ours if name == "ckptfs" else self.peers.setdefault(name, [])).append(value)

    def ratios(self, peer: str) -> list[float]:
        """Return ours to a peer's, round by round."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.peers[peer], strict=True)]

    @property
    def judged(self) -> list[float]:
        """What the target is about."""
        return self.ratios(self.against) if self.against else self.ours

    @property
    def is_met(self) -> bool | None:
        """Whether the median is within the target; None if there is none."""
        return None if self.target is None else statistics.median(self.judged) <= self.target

    def line(self) -> str:
        """Return the figure as a line of a table."""
        what = spread(self.judged, "x" if self.against else self.unit)
        if self.against:
            what += f" of {self.against}"
        sides = {"ckptfs": self.ours} | self.peers
        times = ", ".join(f"{name} {statistics.median(values):.3g} {self.unit}" for name, values in sides.items())
        verdict = (
            f"  target {self.target:g}: " + ("met" if self.is_met else "MISSED") if self.target is not None else ""
        )
        note = f"  [{self.note}]" if self.note else ""
        return f"{self.name:44} {what:38}{'  ' + times if self.peers else ''}{verdict}{note}"

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        ratios = {peer: self.ratios(peer) for peer in self.peers}
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peers": self.peers,
            "ratios": ratios,
            "against": self.against,
            "median": statistics.median(self.judged),
            "range": [min(self.judged), max(self.judged)],
            "target": self.target,
            "met": self.is_met,
            "note": self.note,
        }


def spread(values: Sequence[float], unit: str) -> str:
    """Return the median and, if there are several values, the range."""
    text = f"{statistics.median(values):.3g} {unit}"
    return text if len(values) < 2 else f"{text} ({min(values):.3g} to {max(values):.3g})"


def stamp() -> str:
    """Return the time for names of files."""
    return time.strftime("%Y-%m-%dT%H-%M-%S")


def facts() -> dict[str, Any]:
    """Return what tells one machine and moment from another."""
    return {
        "time": stamp(),
        "kernel": os.uname().release,
        "processors": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
    }


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write one result."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")


def write_figures(path: Path, figures: Iterable[Figure], more: Mapping[str, Any]) -> None:
    """Write figures as one result."""
    write_document(path, {"facts": {**facts(), **more}, "figures": [figure.document() for figure in figures]})
