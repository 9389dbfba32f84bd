"""The main job on real input holds from beginning to end: what `make demo` runs."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.fuse
@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse is missing")
@pytest.mark.timeout(400)
def test_training_killed_in_the_middle_goes_on_elsewhere_and_ends_where_an_uninterrupted_run_ends() -> None:
    done = subprocess.run([sys.executable, "-m", "demo.run"], capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("=== All is as it should be")
    assert sum(line.startswith("kill -9 ") for line in lines) == 4
    assert sum(line.startswith("equal: ") for line in lines) == 3
