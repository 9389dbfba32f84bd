"""A training run that is killed, and goes on elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ckptfs
from tests.mounting import Mounts

ROOT = Path(__file__).parents[2]


def run(name: str, directory: Path, *arguments: object, code: int = 0, timeout_s: float = 100) -> dict[str, Any]:
    """Run a program; return what it reported, nothing if it was to be killed."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.integrations.programs.{name}_program", directory, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == code, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1])) if code == 0 else {}


def killed_and_resumed(name: str, mount: Mounts, *, exact: bool = True, deadline_s: float = 100) -> None:
    """Check that training, killed after step 8 of 20 and saving every third, goes on from step 6 on another machine.

    Args:
        exact: It ends with the very loss of a run that nothing interrupted.
        deadline_s: For each mount, and each run; where other programs keep the processors busy, Lightning alone takes a
            minute to be imported.
    """
    first = mount(name="first", deadline_s=deadline_s)
    run(name, first.root / "run", 8, code=-9, timeout_s=deadline_s)
    first.sync()
    steps = _steps(first.root)
    assert steps == [3, 6], steps
    (first.root / "run" / "half").write_text("never saved")
    first.terminate()
    second = mount(name="second", cache="empty cache", deadline_s=deadline_s)
    again = run(name, second.root / "run", timeout_s=deadline_s)
    assert (again["began"], again["ended"]) == (6, 20)
    second.sync()
    assert _steps(second.root) == [3, 6, 9, 12, 15, 18, 20]
    assert not (second.root / "run" / "half").exists()
    whole = run(name, second.root / "whole", timeout_s=deadline_s)
    assert whole["began"] == 0
    if exact:
        assert again["loss"] == whole["loss"]


def _steps(root: Path) -> list[int]:
    """Return the steps in the notes of all versions, oldest first; each has a metric, too."""
    notes = [version.note for version in ckptfs.checkpoint(root).list()][::-1]
    names = ("step", "round", "iteration", "epoch")
    for note in notes:
        assert isinstance(note, dict)
        assert any(isinstance(value, float) for value in note.values()), note
    return [next(note[name] for name in names if name in note) for note in notes if isinstance(note, dict)]
