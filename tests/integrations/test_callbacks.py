"""Training with the callbacks: killed, and resumed on an empty cache. Others: tests/frameworks/."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.runs import killed_and_resumed
from tests.mounting import Mounts

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "ckptfs" / "integrations").glob("*.py"))


@pytest.mark.parametrize("name", ["xgboost", "sklearn"])
def test_training_that_is_killed_goes_on_elsewhere_as_if_nothing_had_happened(name: str, mount: Mounts) -> None:
    killed_and_resumed(name, mount)


def test_a_framework_that_is_not_installed_is_named_with_what_to_install() -> None:
    frameworks = [name for name in MODULES if name not in ("__init__", "missing", "saving")]
    assert len(frameworks) == 9
    program = f"""
import importlib, importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if not path and name not in sys.stdlib_module_names and name != "ckptfs":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
for name in {frameworks}:
    try:
        importlib.import_module("ckptfs.integrations." + name)
    except ImportError as error:
        print(error)
"""
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert len(lines.splitlines()) == len(frameworks)
    for line in lines.splitlines():
        assert "which is not installed: pip install 'ckptfs[" in line
