"""Memory that was freed is used again."""

import subprocess
import sys

_FAULTS = """
import resource, sys
from ckptfs.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for round in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [bytearray(b"x") * (1 << 20) for _ in range(40)]
    del buffers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of taking 40 MiB in pieces of one, after they were taken and freed twice."""
    return int(subprocess.run([sys.executable, "-c", _FAULTS, how], check=True, capture_output=True, timeout=60).stdout)


def test_buffers_are_taken_from_what_was_freed_and_not_from_the_kernel() -> None:
    assert faults("kept") < 1000 < faults("returned")
