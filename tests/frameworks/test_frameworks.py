"""Training with frameworks that the ordinary tests do not install: `make test-frameworks`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import ckptfs
from tests.integrations.runs import ROOT, killed_and_resumed, run
from tests.mounting import Mount, Mounts

pytestmark = pytest.mark.timeout(500)


@pytest.mark.parametrize("name", ["torch", "lightgbm", "lightning", "transformers", "keras", "orbax"])
def test_training_that_is_killed_goes_on_elsewhere_as_if_nothing_had_happened(name: str, mount: Mounts) -> None:
    killed_and_resumed(name, mount, deadline_s=400)


def test_a_version_of_several_ranks_has_what_each_of_them_wrote(mount: Mounts) -> None:
    mounted = mount(deadline_s=400)
    program = "tests.integrations.programs.transformers_ranks_program"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", program]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    (mounted.root / "run").mkdir()
    done = subprocess.run(
        [*torchrun, mounted.root / "run"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    mounted.sync()
    for step, version in enumerate(ckptfs.checkpoint(mounted.root / "run").list()[::-1], 1):
        written = {path.name for path in (version.path / f"checkpoint-{step}").iterdir()}
        assert written >= {"model.safetensors", "rng_state_0.pth", "rng_state_1.pth"}
    assert step == 2


TORCH = """
import sys, torch
from ckptfs.integrations.torch import Checkpointer
model = torch.nn.Linear(2, 2)
Checkpointer(sys.argv[1], model=model).save(1)
assert Checkpointer(sys.argv[1], model=model).restore() == 1
Checkpointer(sys.argv[1], model=model, schedule=torch.optim.SGD(model.parameters())).restore()
"""


def test_a_state_that_lacks_a_part_is_not_half_loaded_and_says_what_it_has(shared: Mount) -> None:
    done = _python(TORCH, shared.root / "parts")
    assert "state.pt has no state of schedule: it has model" in done.stderr


UNRESTORABLE = """
import sys, ckptfs.errors, numpy, torch
from ckptfs.integrations.torch import Checkpointer
class Best:
    state = {"loss": numpy.zeros(2)}
    def state_dict(self):
        return self.state
    load_state_dict = print
try:
    Checkpointer(sys.argv[1], best=Best()).save(1)
except ckptfs.errors.CkptfsError as error:
    print(error, error.hint)
torch.serialization.add_safe_globals(
    [numpy._core.multiarray._reconstruct, numpy.ndarray, numpy.dtype, type(numpy.dtype("f8"))]
)
Checkpointer(sys.argv[1], best=Best()).save(1)
print(Checkpointer(sys.argv[1], best=Best()).restore())
try:
    Checkpointer(sys.argv[1], model=None)
except ckptfs.errors.CkptfsError as error:
    print(error)
"""


def test_a_state_that_could_not_be_restored_is_refused_when_it_is_first_saved(shared: Mount) -> None:
    before = shared.status()["version"]
    refused, *_, restored, stateless = _python(UNRESTORABLE, shared.root / "refused").stdout.splitlines()
    assert "could not be restored, as a part's state has numpy._core.multiarray._reconstruct in it" in refused
    assert "add_safe_globals" in refused
    assert (restored, stateless) == ("1", "model has no state: it is None")
    assert shared.status()["version"] == before + 1


LIGHTNING = """
import sys, lightning.pytorch as lightning, torch
from torch.utils.data import DataLoader, TensorDataset
from ckptfs.integrations.lightning import Checkpointer, load
class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)
    def training_step(self, batch, index):
        return self.line(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)
lightning.seed_everything(7, verbose=False)
batches = DataLoader(TensorDataset(torch.randn(24, 2)), batch_size=1)
for steps in (4, 6):
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    quiet |= dict(accelerator="cpu", callbacks=[Checkpointer(sys.argv[1], every=2)])
    trainer = lightning.Trainer(max_steps=steps, accumulate_grad_batches=2, **quiet)
    trainer.fit(Line(), batches, ckpt_path=load(sys.argv[1]))
"""


def test_a_step_of_several_batches_is_saved_when_it_is_made_and_not_anew_when_it_is_gone_on_from(
    mount: Mounts,
) -> None:
    fresh = mount(deadline_s=400)
    done = _python(LIGHTNING, fresh.root / "run")
    assert done.returncode == 0, done.stderr[-4000:]
    assert [version.note["step"] for version in ckptfs.checkpoint(fresh.root).list()] == [6, 4, 2]


ORBAX = """
import sys, jax.numpy as jnp
from ckptfs.integrations.orbax import Checkpointer
training = Checkpointer(sys.argv[1], every=2)
for step, value in ((4, 4.0), (4, 5.0), (2, 2.0)):
    version = training.save(step, {"w": jnp.full(3, value)})
    restored, state = training.restore({"w": jnp.zeros(3)})
    print(version.note["step"], restored, float(state["w"][0]))
"""


def test_a_step_that_is_saved_again_or_after_later_ones_is_what_its_version_holds(shared: Mount) -> None:
    done = _python(ORBAX, shared.root / "again")
    assert done.stdout.splitlines() == ["4 4 4.0", "4 4 5.0", "2 2 2.0"], done.stderr


def _python(program: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, directory], capture_output=True, text=True, timeout=200
    )


def test_a_ray_worker_that_fails_is_started_anew_and_goes_on_from_the_newest_version(mount: Mounts) -> None:
    mounted = mount(deadline_s=480)
    # for Ray's own files: a socket's path is at most 108 bytes long
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:
        # Ray alone takes 60 s to begin, twice, and four times as long where other programs keep the processors busy
        done = run("ray", mounted.root / "run", 4, own, timeout_s=450)
    assert (done["began"], done["ended"], done["loss"]) == (3, 8, pytest.approx(0.9**8))
    notes = [version.note for version in ckptfs.checkpoint(mounted.root).list()][::-1]
    assert [note["step"] for note in notes if isinstance(note, dict)] == list(range(1, 9))
