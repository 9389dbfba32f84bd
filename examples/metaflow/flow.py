"""Trains XGBoost in a step with @checkpoint: python flow.py run, and after a crash python flow.py resume."""

import os
import time

import xgboost
from metaflow import FlowSpec, current, step
from sklearn.datasets import load_digits

from ckptfs.metaflow import checkpoint

ROUNDS, EVERY = 60, 5


class Save(xgboost.callback.TrainingCallback):
    """Saves the model every few rounds."""

    def after_iteration(self, model, epoch, evals_log):
        """Called after each round."""
        done, loss = model.num_boosted_rounds(), evals_log["train"]["mlogloss"][-1]
        if done % EVERY == 0:
            model.save_model(os.path.join(current.checkpoint.directory, "model.ubj"))
            current.checkpoint.save(metadata={"step": done, "loss": loss})
        print(f"step {done} loss {loss:.9g}", flush=True)
        time.sleep(0.2)  # a round on data this small takes no time


class Digits(FlowSpec):
    """Trains, and goes on where a run that was lost has saved last."""

    @checkpoint
    @step
    def start(self):
        """Train."""
        model, done = None, 0
        if current.checkpoint.is_loaded:
            model = xgboost.Booster(model_file=os.path.join(current.checkpoint.directory, "model.ubj"))
            done = model.num_boosted_rounds()
        data = xgboost.DMatrix(*load_digits(return_X_y=True))
        xgboost.train(
            {"objective": "multi:softprob", "num_class": 10, "max_depth": 3, "eta": 0.1, "nthread": 1},
            data,
            num_boost_round=ROUNDS - done,
            xgb_model=model,
            evals=[(data, "train")],
            callbacks=[Save()],
            verbose_eval=False,
        )
        self.next(self.end)

    @step
    def end(self):
        """Nothing is left to do."""


if __name__ == "__main__":
    Digits()
