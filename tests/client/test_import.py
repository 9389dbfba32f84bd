"""The client costs a program next to nothing to import."""

import json
import subprocess
import sys

_LIMIT_MS = 30

_PROGRAM = """
import json, sys, time
before, started_s = set(sys.modules), time.process_time()
import ckptfs
ckptfs.checkpoint
took_ms = 1000 * (time.process_time() - started_s)
print(json.dumps([took_ms, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""


def _import() -> tuple[float, list[str]]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, check=True, timeout=60)
    took_ms, modules = json.loads(done.stdout)
    return took_ms, modules


def test_the_client_needs_the_standard_library_alone() -> None:
    assert set(_import()[1]) - sys.stdlib_module_names == {"ckptfs"}


def test_it_is_imported_in_thirty_milliseconds() -> None:
    # of processor time, and the quickest of some: others use the machine too
    assert any(_import()[0] < _LIMIT_MS for _ in range(20))
