"""Boosts on the breast-cancer data."""

import sys

import xgboost
from sklearn.datasets import load_breast_cancer

from ckptfs.integrations.xgboost import Checkpointer, load
from tests.integrations.programs.dying import Progress, report

STEPS = 20


class Dying(xgboost.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        progress.reached(model.num_boosted_rounds())
        return False


progress = Progress()
directory = sys.argv[1]
model = load(directory)
began = model.num_boosted_rounds() if model else 0
data = xgboost.DMatrix(*load_breast_cancer(return_X_y=True))
losses: dict = {}
model = xgboost.train(
    {"objective": "binary:logistic", "eta": 0.1, "max_depth": 3, "nthread": 1, "seed": 7},
    data,
    num_boost_round=STEPS - began,
    evals=[(data, "train")],
    evals_result=losses,
    xgb_model=model,
    callbacks=[Checkpointer(directory, every=3), Dying()],
    verbose_eval=False,
)
report(began, model.num_boosted_rounds(), losses["train"]["logloss"][-1])
