"""Trains a classifier on scikit-learn's breast-cancer data and checkpoints it by writing files and touching `.save`.

    python -m demo.train_xgboost DIRECTORY [--rounds 200] [--every 10] [--round-s 0.02]

Nothing here knows of ckptfs: DIRECTORY may be any directory. If it holds a model, training goes on from that.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

PARAMETERS = {
    "objective": "binary:logistic",
    "eta": 0.05,
    "max_depth": 4,
    "eval_metric": "logloss",
    "nthread": 1,
    "seed": 7,
}


class Checkpointer(xgboost.callback.TrainingCallback):
    """Writes the model and its metrics every few rounds, and saves the directory as one version."""

    def __init__(self, directory: Path, every: int, round_s: float) -> None:
        self._directory = directory
        self._every = every
        self._round_s = round_s

    def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, Any]) -> bool:
        """Called by XGBoost after each round; `epoch` counts from where the loaded model ended."""
        loss = evals_log["test"]["logloss"][-1]
        with (self._directory / "metrics.csv").open("a") as metrics:
            metrics.write(f"{model.num_boosted_rounds()},{loss:.6f}\n")
        if (epoch + 1) % self._every == 0:
            model.save_model(self._directory / "model.ubj")
            note = {"round": model.num_boosted_rounds(), "logloss": round(loss, 6)}
            (self._directory / ".save").write_text(json.dumps(note))
            print(f"round {note['round']}: logloss {loss:.4f}, saved", flush=True)
        time.sleep(self._round_s)
        return False


def train(directory: Path, *, rounds: int, every: int, round_s: float) -> dict[str, float]:
    """Train up to a number of rounds, from the directory's model if there is one.

    Args:
        directory: Holds the model, the metrics and the marker.
        rounds: Of the finished model.
        every: Rounds between two saves; divides `rounds`.
        round_s: Time that each round takes longer than it does on data this small.

    Returns:
        Rounds, accuracy and logloss of the finished model on the test data.
    """
    features, labels = load_breast_cancer(return_X_y=True)
    split = train_test_split(features, labels, test_size=0.3, random_state=7, stratify=labels)
    training, test = xgboost.DMatrix(split[0], split[2]), xgboost.DMatrix(split[1], split[3])
    model, done = None, 0
    if (directory / "model.ubj").exists():
        model = xgboost.Booster(model_file=directory / "model.ubj")
        done = model.num_boosted_rounds()
        forget_metrics_after(directory / "metrics.csv", done)
        print(f"found a model of {done} rounds, going on", flush=True)
    booster = xgboost.train(
        PARAMETERS,
        training,
        num_boost_round=rounds - done,
        evals=[(test, "test")],
        xgb_model=model,
        callbacks=[Checkpointer(directory, every, round_s)],
        verbose_eval=False,
    )
    chances = booster.predict(test)
    right = float(np.mean((chances > 0.5) == split[3]))
    loss = float(-np.mean(np.log(np.where(split[3] == 1, chances, 1 - chances))))
    return {"rounds": booster.num_boosted_rounds(), "accuracy": right, "logloss": loss}


def forget_metrics_after(path: Path, rounds: int) -> None:
    """Drop the lines of rounds that the model does not have."""
    lines = [line for line in path.read_text().splitlines() if int(line.split(",")[0]) <= rounds]
    path.write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Run as a program; the last line it prints is the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--round-s", type=float, default=0.0)
    arguments = parser.parse_args()
    result = train(arguments.directory, rounds=arguments.rounds, every=arguments.every, round_s=arguments.round_s)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
