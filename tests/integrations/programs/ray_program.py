"""Trains in two Ray workers; Ray starts the training function anew in both when it fails."""

import json
import os
import sys
import time
from pathlib import Path

os.environ.update(RAY_TRAIN_V2_ENABLED="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_AUTH_MODE="disabled")

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from tests.integrations.programs.dying import report

STEPS = 8


def train(config):
    from ray.train.collective import barrier

    import ckptfs
    from ckptfs.integrations.ray import Checkpointer

    load = ckptfs.Checkpoint.load
    # so that the other worker reads before, if it does not wait
    ckptfs.Checkpoint.load = lambda self: (time.sleep(2), load(self))
    training = Checkpointer(config["directory"])
    path = training.directory / "state.json"
    state = json.loads(path.read_text()) if training.is_loaded else {"step": 0, "value": 1.0, "began": []}
    barrier()  # the first does not overwrite it before the other has read it
    state["began"].append(state["step"])
    while state["step"] < STEPS:
        state["step"] += 1
        state["value"] *= 0.9
        if state["step"] == config["die_at"] and len(state["began"]) == 1:
            path.write_text('{"step"')
            raise RuntimeError("a worker fails")
        if training.is_first:
            path.write_text(json.dumps(state))
        training.report({"loss": state["value"], "began": state["began"][-1]}, step=state["step"])


ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[3])
trainer = TorchTrainer(
    train,
    train_loop_config={"directory": sys.argv[1], "die_at": int(sys.argv[2])},
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(storage_path=sys.argv[3], failure_config=FailureConfig(max_failures=1)),
)
trainer.fit()
state = json.loads((Path(sys.argv[1]) / "state.json").read_text())
report(state["began"][-1], state["step"], state["value"])
