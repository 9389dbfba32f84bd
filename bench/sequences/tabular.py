"""What grows while it is searched or boosted: a tree model that gets more trees, a database that gets more trials."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_VERSIONS = 9

_FIRST_ROUNDS = 500
_MORE_ROUNDS = 5

_FIRST_TRIALS = 10_000
_MORE_TRIALS = 100
_PARAMETERS = ("learning_rate", "weight_decay", "dropout", "layers", "width")
_STEPS = 5

Keep = Callable[[str, int], Path]


def make_xgboost(keep: Keep) -> None:
    """Boost on; the versions are 5 rounds apart, 1 % of the trees."""
    import xgboost

    generator = np.random.default_rng(0)
    features = generator.standard_normal((20_000, 30), dtype=np.float32)
    hidden = np.sin(features[:, 0] * 2) + features[:, 1] * features[:, 2] + 0.3 * generator.standard_normal(20_000)
    data = xgboost.DMatrix(features, label=(hidden > 0).astype(np.float32))
    parameters = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.05, "nthread": 2, "seed": 0}
    booster: Any = None
    for number in range(_VERSIONS):
        rounds = _MORE_ROUNDS if number else _FIRST_ROUNDS
        booster = xgboost.train(parameters, data, num_boost_round=rounds, xgb_model=booster)
        for form in ("ubj", "json"):
            booster.save_model(keep(f"xgboost-{form}", number) / f"model.{form}")


def make_sqlite(keep: Keep) -> None:
    """Add trials to a study with the tables of optuna; the versions are 100 trials apart, 1 % of all."""
    generator = np.random.default_rng(0)
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        """
        CREATE TABLE trials (trial_id INTEGER PRIMARY KEY, number INTEGER, study_id INTEGER, state VARCHAR(8),
            datetime_start DATETIME, datetime_complete DATETIME);
        CREATE INDEX trials_study_id ON trials (study_id);
        CREATE TABLE trial_params (param_id INTEGER PRIMARY KEY, trial_id INTEGER, param_name VARCHAR(512),
            param_value FLOAT, distribution_json TEXT, UNIQUE (trial_id, param_name));
        CREATE TABLE trial_values (trial_value_id INTEGER PRIMARY KEY, trial_id INTEGER, objective INTEGER,
            value FLOAT, value_type VARCHAR(7), UNIQUE (trial_id, objective));
        CREATE TABLE trial_intermediate_values (trial_intermediate_value_id INTEGER PRIMARY KEY, trial_id INTEGER,
            step INTEGER, intermediate_value FLOAT, intermediate_value_type VARCHAR(7), UNIQUE (trial_id, step));
        """
    )
    done = 0
    for number in range(_VERSIONS):
        more = _MORE_TRIALS if number else _FIRST_TRIALS
        for trial in range(done, done + more):
            _add_trial(connection, trial, generator)
        done += more
        connection.commit()
        with sqlite3.connect(keep("sqlite", number) / "study.db") as file:
            connection.backup(file)
        file.close()
    connection.close()


def _add_trial(connection: sqlite3.Connection, trial: int, generator: np.random.Generator) -> None:
    distribution = json.dumps({"name": "FloatDistribution", "attributes": {"low": 0.0, "high": 1.0, "log": False}})
    minutes, seconds = divmod(trial * 37, 60)
    hours, minutes = divmod(minutes, 60)
    start = f"2026-01-{1 + hours // 24:02}T{hours % 24:02}:{minutes:02}:{seconds:02}.{trial % 1000:03}000"
    connection.execute("INSERT INTO trials VALUES (?, ?, 1, 'COMPLETE', ?, ?)", (trial + 1, trial, start, start))
    params = [(trial + 1, name, float(generator.random()), distribution) for name in _PARAMETERS]
    connection.executemany(
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)", params
    )
    losses = np.sort(generator.random(_STEPS))[::-1].tolist()
    steps = [(trial + 1, step, loss, "FINITE") for step, loss in enumerate(losses)]
    connection.executemany(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        "VALUES (?, ?, ?, ?)",
        steps,
    )
    connection.execute(
        "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')",
        (trial + 1, losses[-1]),
    )
