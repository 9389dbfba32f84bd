"""Random operations on one file, as a program could make them, against a model in memory; `make fsx` does many more."""

from pathlib import Path

import pytest

from tests.fs.fsx.exerciser import exercise

# (operations, largest size): in the small file all ranges meet on the same pages, the largest has three chunks
STORIES = {1: (8_000, 20 << 10), 2: (8_000, 256 << 10), 3: (3_000, 1 << 20), 4: (1_000, 9 << 20)}


@pytest.mark.fuse
@pytest.mark.timeout(300)
@pytest.mark.parametrize("transport", ["passthrough", "fusepy"])
@pytest.mark.parametrize("seed", STORIES)
def test_a_file_holds_what_was_written_whatever_the_way(tmp_path: Path, transport: str, seed: int) -> None:
    operations, max_bytes = STORIES[seed]
    exercise(tmp_path, transport, seed, operations, max_bytes, deadline_s=280)
