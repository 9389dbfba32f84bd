"""Trains a small network on the digits, an epoch at a time."""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
from sklearn.datasets import load_digits

from ckptfs.integrations.keras import Checkpointer, load
from tests.integrations.programs.dying import Progress, report

STEPS = 20


class Dying(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        progress.reached(epoch + 1)


progress = Progress()
keras.utils.set_random_seed(7)
features, labels = load_digits(return_X_y=True)
model, began = load(sys.argv[1])
if model is None:
    layers = [keras.layers.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = model.fit(
    features / 16,
    labels,
    batch_size=600,
    epochs=STEPS,
    initial_epoch=began,
    shuffle=False,
    verbose=0,
    callbacks=[Checkpointer(sys.argv[1], every=3), Dying()],
)
report(began, history.epoch[-1] + 1, history.history["loss"][-1])
