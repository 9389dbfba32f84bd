"""Keras: the model with its optimizer after every few epochs (docs/frameworks/keras.md)."""

import json
from typing import Any

from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, saved_file

try:
    import keras
except ImportError as error:
    raise MissingPackageError("keras", "keras") from error

MODEL = "model.keras"
PROGRESS = "progress.json"


class Checkpointer(keras.callbacks.Callback):
    """Saves the model every few epochs and at the end: `callbacks=[Checkpointer()]`.

    Args:
        where: The directory.
        every: Epochs between two saves.
    """

    def __init__(self, where: Where = None, every: int = 1) -> None:
        super().__init__()
        self._saves = Saves(where, every)
        self._epochs = 0
        self._logs: dict[str, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin."""
        self._saves.begin()
        self._epochs = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save if it is time."""
        self._epochs, self._logs = epoch + 1, logs or {}
        if self._saves.is_due(self._epochs):
            self._save()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Save the last epoch."""
        if self._epochs and self._saves.is_left(self._epochs):
            self._save()

    def _save(self) -> None:
        directory = self._saves.checkpoint.directory
        self.model.save(directory / MODEL)
        (directory / PROGRESS).write_text(json.dumps({"epochs": self._epochs}))
        self._saves.save(self._logs, epoch=self._epochs)


def load(where: Where = None) -> tuple[Any, int]:
    """Return the model of the newest version and the epochs it was trained, for `initial_epoch`; (None, 0) if none."""
    path = saved_file(go_back(where), MODEL)
    if path is None:
        return None, 0
    return keras.saving.load_model(path), int(json.loads(path.with_name(PROGRESS).read_text())["epochs"])
