"""Trains on scikit-learn's digits, and goes on from the newest version: python train.py /ckpt."""

import sys

import xgboost
from sklearn.datasets import load_digits

from ckptfs.integrations.xgboost import Checkpointer, load

ROUNDS = 60

directory = sys.argv[1]
model = load(directory)
done = model.num_boosted_rounds() if model else 0
data = xgboost.DMatrix(*load_digits(return_X_y=True))
xgboost.train(
    {"objective": "multi:softprob", "num_class": 10, "max_depth": 3, "eta": 0.1, "nthread": 1},
    data,
    num_boost_round=ROUNDS - done,
    xgb_model=model,
    evals=[(data, "train")],
    callbacks=[Checkpointer(directory, every=5)],
)
