"""Each example is trained, loses its machine, and goes on elsewhere as if nothing had happened."""

from pathlib import Path

import pytest

from examples import example
from examples.run import run

# five of some 4 s each on a quiet machine; many times that where others use it, too
pytestmark = [pytest.mark.fuse, pytest.mark.timeout(500)]

WITHOUT_FRAMEWORKS = ["c", "node", "perl", "shell", "xgboost"]


@pytest.mark.parametrize("name", WITHOUT_FRAMEWORKS)
def test_training_that_loses_its_machine_goes_on_elsewhere_where_it_was(name: str, tmp_path: Path) -> None:
    outcome = run(name, 7, None, tmp_path)
    assert outcome.killed_step >= outcome.resumed_step > 0
    assert min(outcome.after) == outcome.resumed_step + 1
    assert outcome.difference == 0
    assert outcome.whole[max(outcome.whole)] < outcome.whole[1] / 1.4, "it does not learn"


@pytest.mark.parametrize("name", example.names())
def test_every_example_tells_how_it_is_run_and_shows_its_curve(name: str) -> None:
    folder = example.load(name).folder
    assert "loss.svg" in (folder / "README.md").read_text()
    assert "kill -9 after step" in (folder / "loss.svg").read_text()
