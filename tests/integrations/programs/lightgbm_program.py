"""Boosts on the breast-cancer data."""

import sys

import lightgbm
from sklearn.datasets import load_breast_cancer

from ckptfs.integrations.lightgbm import Checkpointer, load
from tests.integrations.programs.dying import Progress, report

STEPS = 20
progress = Progress()
model = load(sys.argv[1])
began = model.current_iteration() if model else 0
features, labels = load_breast_cancer(return_X_y=True)
losses: dict = {}
data = lightgbm.Dataset(features, labels, free_raw_data=False)
model = lightgbm.train(
    {"objective": "binary", "learning_rate": 0.1, "num_leaves": 7, "num_threads": 1, "seed": 7, "verbosity": -1},
    data,
    num_boost_round=STEPS - began,
    valid_sets=[data],
    valid_names=["train"],
    init_model=model,
    keep_training_booster=True,
    callbacks=[
        Checkpointer(sys.argv[1], every=3),
        lightgbm.record_evaluation(losses),
        lambda env: progress.reached(env.model.current_iteration()),
    ],
)
report(began, model.current_iteration(), losses["train"]["binary_logloss"][-1])
