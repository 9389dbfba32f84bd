"""Training with frameworks that the ordinary tests do not install: `make test-frameworks`."""

import tempfile

import pytest

import ckptfs
from tests.integrations.runs import killed_and_resumed, run
from tests.mounting import Mounts

pytestmark = pytest.mark.timeout(280)


@pytest.mark.parametrize("name", ["torch", "lightgbm", "lightning", "transformers", "keras", "orbax"])
def test_training_that_is_killed_goes_on_elsewhere_as_if_nothing_had_happened(name: str, mount: Mounts) -> None:
    killed_and_resumed(name, mount)


def test_a_ray_worker_that_fails_is_started_anew_and_goes_on_from_the_newest_version(mount: Mounts) -> None:
    mounted = mount(deadline_s=270)
    # for Ray's own files: a socket's path is at most 108 bytes long
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:
        done = run("ray", mounted.root / "run", 8, own, timeout_s=200)
    assert (done["began"], done["ended"], done["loss"]) == (7, 20, pytest.approx(0.9**20))
    notes = [version.note for version in ckptfs.checkpoint(mounted.root).list()][::-1]
    assert [note["step"] for note in notes if isinstance(note, dict)] == list(range(1, 21))
