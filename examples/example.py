"""What an example is: a folder with a program that trains, and example.toml, which says how to run it."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One folder. In commands, {ckpt} is the mount, {data} the digits, {work} a directory to build in."""

    name: str
    title: str
    command: Sequence[str]
    """Run in the folder; it prints a line with step and loss after each step, or each few."""
    build: Sequence[str] = ()
    """Run once before."""
    serve: Sequence[str] = ()
    """Run all the time beside the trainer, on a machine whose mount follows: {follow} is that mount."""
    again: Sequence[str] = ()
    """What goes on with a run that was lost, of a flow that mounts by itself; {folder} is the folder."""
    progress: str = r"step (?P<step>\d+) loss (?P<loss>[-+.\de]+)"
    """A regular expression of the lines that tell of progress."""
    counted_from: int = 1
    """What the program calls its first step in these lines."""
    counts_anew: bool = False
    """A resumed program counts its steps from the start again."""
    steps: int
    """Of the whole training."""
    every: int
    """Steps between two saves."""
    tolerance: float = 0.0
    """By how much a loss may differ from that of a run that nothing interrupted."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return FOLDER / self.name


def load(name: str) -> Example:
    """Return the example of a folder."""
    return Example(name=name, **tomllib.loads((FOLDER / name / "example.toml").read_text()))


def names() -> list[str]:
    """Return the names of all."""
    return sorted(path.parent.name for path in FOLDER.glob("*/example.toml"))
