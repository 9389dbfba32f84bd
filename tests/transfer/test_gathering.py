"""When an upload begins: at once for who saves now and then, for several versions at once where they come fast."""

import os
import subprocess
import sys

import pytest

from ckptfs.transfer.gathering import GATHERED_S, HURRY, Gathering
from tests.transfer.test_process import Machine, machine, wait_for

__all__ = ["machine"]


class Clock:
    """Stands still until it is told otherwise."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def begin(gathering: Gathering, clock: Clock, versions: int, every_s: float) -> None:
    for _ in range(versions):
        gathering.begin()
        clock.now_s += every_s


@pytest.mark.parametrize(("versions", "every_s"), [(0, 0.0), (7, 0.01), (30, 0.3), (3, 60.0)])
def test_who_saves_seldom_or_some_times_in_a_row_never_waits(versions: int, every_s: float) -> None:
    clock = Clock()
    gathering = Gathering(clock)
    begin(gathering, clock, versions, every_s)
    assert gathering.pause_s() == 0.0


def test_where_versions_come_fast_an_upload_begins_so_long_after_the_last() -> None:
    clock = Clock()
    gathering = Gathering(clock)
    begin(gathering, clock, 8, 0.1)
    assert gathering.pause_s() == pytest.approx(GATHERED_S - 0.1)
    clock.now_s += GATHERED_S
    assert gathering.pause_s() == 0.0
    # five came meanwhile, and are uploaded one after another
    begin(gathering, clock, 5, 0.01)
    assert gathering.pause_s() == pytest.approx(GATHERED_S - 0.01)
    clock.now_s += 2.0
    assert gathering.pause_s() == 0.0


def test_who_is_in_a_hurry_ends_the_gathering_until_that_is_served() -> None:
    gathering = Gathering(Clock())
    begin(gathering, Clock(), 8, 0.0)
    gathering.hurry()
    gathering.wait()
    assert gathering.pause_s() == GATHERED_S


def test_versions_are_gathered_until_somebody_waits_for_them(machine: Machine) -> None:
    # for ever, so that nothing but a hurry can have ended it
    slow = "import sys, ckptfs.transfer.gathering as g; g._WITHIN_S = g.GATHERED_S = 1e6; from ckptfs.transfer.process"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{slow} import main; sys.exit(main(sys.argv[1:]))", os.fspath(machine.cache.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    machine.started.append(process)
    assert process.stdin is not None
    for version in range(1, 9):
        machine.capture(version)
    process.stdin.write(b"\n")
    wait_for(process, "durable", version=8)
    for version in (9, 10):
        machine.capture(version)
        process.stdin.write(b"\n")
    with pytest.raises(AssertionError, match="no uploading"):
        wait_for(process, "uploading", timeout_s=0.5)
    process.stdin.write(HURRY + b"\n")
    wait_for(process, "durable", version=10)
    machine.capture(11)
    process.stdin.close()
    wait_for(process, "durable", version=11)
    assert process.wait(20) == 0
