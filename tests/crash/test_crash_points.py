"""A sample of the crash points: `make crash-points` takes all of them."""

import re
import subprocess
import sys

import pytest

from tests.crash.scenario import write_script


# losing what was not put on disk takes a filesystem of one's own, on a loop device
@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_or_without_power_at_any_step_what_was_promised_is_there_and_nothing_is_half_visible() -> None:
    sample = ["--kills=20", "--recoveries=2", "--recovery-kills=5", "--power-cuts=5", "--kinds=ext4,xfs"]
    # in a process of its own, which has no threads when it forks
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *sample], capture_output=True, text=True, timeout=230, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.match(r"(\d+) steps", done.stdout)
    assert steps is not None
    assert int(steps[1]) > 300
    crashes = re.search(r"(\d+) crashes: 0 violations", done.stdout)
    assert crashes is not None
    assert int(crashes[1]) >= 30


def test_the_scenario_leaves_versions_in_every_state() -> None:
    script = write_script()
    assert len(script.versions) > 5
    states = set(zip(script.captured, script.durable, script.kept, strict=True))
    assert any(captured > durable for captured, durable, _ in states)
    assert any(kept > durable for _, durable, kept in states)
