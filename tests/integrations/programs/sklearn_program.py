"""Fits a linear classifier to the digits, batch by batch."""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from ckptfs.integrations.sklearn import Checkpointer
from tests.integrations.programs.dying import Progress, report

progress = Progress()
features, labels = load_digits(return_X_y=True)
features = features / 16
batches = list(zip(np.array_split(features, 20), np.array_split(labels, 20), strict=True))
training = Checkpointer(SGDClassifier(loss="log_loss", random_state=7), sys.argv[1], every=3)
began = training.step
for some_features, some_labels in training.rest(batches):
    training.estimator.partial_fit(some_features, some_labels, classes=np.arange(10))
    training.metrics = {"accuracy": training.estimator.score(features, labels)}
    progress.reached(training.step + 1)
report(began, training.step, log_loss(labels, training.estimator.predict_proba(features)))
