"""Trains with Keras on scikit-learn's digits, and goes on from the newest version: python train.py /ckpt."""

import sys

import keras
from sklearn.datasets import load_digits

from ckptfs.integrations.keras import Checkpointer, load


class PrintLoss(keras.callbacks.Callback):
    """Prints the loss of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        """Called after each epoch."""
        print(f"step {epoch + 1} loss {logs['loss']:.9g}", flush=True)


directory = sys.argv[1]
keras.utils.set_random_seed(7)
features, labels = load_digits(return_X_y=True)
model, epochs = load(directory)
if model is None:
    model = keras.Sequential(
        [keras.layers.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(
    features / 16,
    labels,
    batch_size=300,
    epochs=40,
    initial_epoch=epochs,
    shuffle=False,
    verbose=0,
    callbacks=[Checkpointer(directory, every=4), PrintLoss()],
)
