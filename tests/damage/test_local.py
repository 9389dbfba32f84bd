"""What lies in a cache directory, damaged: nothing wrong enters history, and what was captured and is whole does."""

import json
import subprocess
import sys

import pytest

from tests.damage.local import CLASSES


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_damaged_cache_directory_costs_what_is_damaged_and_keeps_it_aside() -> None:
    # in a process of its own, which has no threads when it forks
    done = subprocess.run(
        [sys.executable, "-m", "tests.damage.local"], capture_output=True, text=True, timeout=190, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["tried"].keys() == CLASSES.keys()
    assert sum(found["tried"].values()) > 60
    assert found["aside"] > 10
