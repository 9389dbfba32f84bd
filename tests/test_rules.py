"""The rules of the repository's conftest.py hold: nothing is skipped in CI, and no ERROR record goes unexplained."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import logging
import pytest

def test_passes(): pass
def test_skips(): pytest.skip("no tool")
@pytest.mark.xfail
def test_is_expected_to_fail(): assert False
def test_logs_an_error(): logging.getLogger("ckptfs").error("lost a pack")
@pytest.mark.expects_errors
def test_logs_an_error_on_purpose(): logging.getLogger("ckptfs").error("lost a pack")
"""


def outcomes(directory: Path, *, ci: str) -> dict[str, str]:
    """Run the tests above under the repository's conftest.py; return the outcome of each."""
    shutil.copy(Path(__file__).parents[1] / "conftest.py", directory)
    (directory / "test_it.py").write_text(TESTS)
    (directory / "test_module.py").write_text("import pytest\npytest.skip('no tool', allow_module_level=True)\n")
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-rA",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        str(directory),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"CI": ci}, cwd=directory, check=False
    )
    found = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "SKIPPED", "XFAIL", "ERROR"):
            found[rest.split("::")[-1].split(" - ")[0]] = word
    return found


@pytest.mark.parametrize(("ci", "skipped"), [("true", "FAILED"), ("", None)])
def test_a_skip_fails_in_ci_only(tmp_path: Path, ci: str, skipped: str | None) -> None:
    found = outcomes(tmp_path, ci=ci)
    assert found["test_passes"] == "PASSED"
    assert found["test_is_expected_to_fail"] == "XFAIL"
    assert found.get("test_skips") == skipped
    assert any("test_module" in name and word == "ERROR" for name, word in found.items()) == (ci == "true")


def test_an_error_record_fails_the_test_unless_it_is_part_of_it(tmp_path: Path) -> None:
    found = outcomes(tmp_path, ci="")
    assert found["test_logs_an_error"] == "ERROR"
    assert found["test_logs_an_error_on_purpose"] == "PASSED"
