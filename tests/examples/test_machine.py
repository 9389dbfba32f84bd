"""Programs of the examples do not run ahead of who reads them, and leave nothing behind."""

import os
import sys
import time
from pathlib import Path

import pytest

from bench.processes import tree_of
from examples.machine import ExampleError, Program

COUNT = "for n in range(1, 1000):\n    print('step', n, flush=True)\n    open('reached', 'w').write(str(n))"


def test_a_program_waits_for_its_reader(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", COUNT], tmp_path, os.environ, tmp_path / "stderr")
    try:
        for line in program.lines():
            if line == "step 5":
                break
        time.sleep(0.3)
        program.kill()
    finally:
        program.close()
    assert int((tmp_path / "reached").read_text() or 5) <= 6


def test_what_a_program_started_is_killed_with_it(tmp_path: Path) -> None:
    script = "setsid sleep 300 & echo $!; wait"
    program = Program(["sh", "-c", script], tmp_path, os.environ, tmp_path / "stderr")
    try:
        child = int(next(iter(program.lines())))
        assert tree_of(child) == [child]
    finally:
        program.close()
    deadline_s = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline_s, "it lives"
        time.sleep(0.02)


def test_a_program_that_fails_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    program = Program(["sh", "-c", "echo no such data >&2; exit 3"], tmp_path, os.environ, tmp_path / "stderr")
    try:
        assert list(program.lines()) == []
        with pytest.raises(ExampleError, match=r"ended with 3:\nno such data"):
            program.end()
    finally:
        program.close()
