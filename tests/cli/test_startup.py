"""What a command line costs before it does anything: `ckptfs save` may stand in a training loop."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from ckptfs.cli.application import run
code = run(sys.argv[1:])
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
print(" ".join(sorted(name for name in sys.modules if name.startswith("ckptfs."))), file=sys.stderr)
"""

HEAVY = {
    "boto3",
    "botocore",
    "rich",
    "numpy",
    "tenacity",
    "fuse",
    "watchdog",
    "zstandard",
    "blake3",
    "logging",
    "asyncio",
}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["save", "/nonexistent"], ["status"], ["mount", "--help"], ["log", "--help"]]
)
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    third_party, own = done.stderr.splitlines()[-2:]
    assert not HEAVY & set(third_party.split())
    layers = {name.split(".")[1] for name in own.split()}
    assert layers <= {"cli", "client", "errors", "units", "mount_table", "watch_table"}
    if arguments[-1] != "--help":
        assert [name for name in own.split() if name.startswith("ckptfs.cli.commands.")] == [
            f"ckptfs.cli.commands.{arguments[0]}"
        ]
