"""`python -m tests.fs.fsx`: many operations, in stories of several sizes. Exit code 1 and the story on a difference."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fs.fsx.exerciser import exercise

# small ones put all ranges on the same few pages; the largest has several chunks of 4 MiB
_SIZES = (20 << 10, 256 << 10, 1 << 20, 9 << 20)


def main() -> int:
    """Run stories until all operations are done."""
    parser = argparse.ArgumentParser(prog="python -m tests.fs.fsx", description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=10_000, help="operations of one story")
    parser.add_argument("--seed", type=int, default=0, help="of the first story")
    parser.add_argument("--size", type=int, help="largest size of the file; several in turn without it")
    parser.add_argument("--transport", default="passthrough")
    arguments = parser.parse_args()
    done, seed, failed = 0, arguments.seed, 0
    while done < arguments.operations:
        operations = min(arguments.each, arguments.operations - done)
        size = arguments.size or _SIZES[seed % len(_SIZES)]
        started_s = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="ckptfs-fsx-") as directory:
                exercise(Path(directory), arguments.transport, seed, operations, size, deadline_s=1800)
        except AssertionError as error:
            failed += 1
            print(error, file=sys.stderr, flush=True)
        done += operations
        took_s = time.monotonic() - started_s
        print(f"{done} operations, {failed} stories differ (seed {seed}, {size} bytes, {took_s:.1f} s)", flush=True)
        seed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
