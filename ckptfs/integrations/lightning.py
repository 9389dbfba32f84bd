"""Lightning: the trainer's own checkpoint every few steps (docs/frameworks/lightning.md)."""

from pathlib import Path
from typing import Any

from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, saved_file

try:
    import lightning.pytorch as lightning
except ImportError:
    try:
        import pytorch_lightning as lightning
    except ImportError as error:
        raise MissingPackageError("lightning", "lightning") from error

CHECKPOINT = "last.ckpt"


class Checkpointer(lightning.Callback):
    """Saves the trainer's checkpoint every few optimizer steps and at the end: `callbacks=[Checkpointer()]`.

    Args:
        where: The directory.
        every: Optimizer steps between two saves.
    """

    def __init__(self, where: Where = None, every: int = 1) -> None:
        super().__init__()
        self._saves = Saves(where, every)
        self._seen_step = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Begin; the step that is gone on from is saved already."""
        self._saves.begin()
        self._seen_step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time. Several batches may make one optimizer step."""
        step = trainer.global_step
        if step != self._seen_step and step % self._saves.every == 0:
            self._save(trainer)
        self._seen_step = step

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Save the last step."""
        if self._saves.saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        # in every rank: parts of a sharded model are gathered in it
        trainer.save_checkpoint(self._saves.checkpoint.directory / CHECKPOINT)
        self._saves.save({"epoch": trainer.current_epoch, **trainer.callback_metrics}, step=trainer.global_step)


def load(where: Where = None) -> Path | None:
    """Return the checkpoint of the newest version, to go on from: `ckpt_path=load()`; None if there is none."""
    return saved_file(go_back(where), CHECKPOINT)
