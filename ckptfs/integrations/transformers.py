"""Hugging Face Trainer: a version of every checkpoint that it writes (docs/frameworks/transformers.md)."""

from pathlib import Path
from typing import Any

from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, open_checkpoint

try:
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise MissingPackageError("transformers", "transformers") from error


class Checkpointer(TrainerCallback):
    """Saves when the trainer has: `callbacks=[Checkpointer()]`, with `output_dir` in the directory.

    How often is said by `save_steps`, and `save_total_limit=1` is enough: versions keep the older ones.

    Args:
        where: The directory; None takes $CKPTFS_DIR.
    """

    def __init__(self, where: Where = None) -> None:
        self._saves = Saves(where, every=1)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A `checkpoint-<step>` has been written, and older ones are gone."""
        if args.distributed_state is not None:
            # each rank writes its own random numbers, and shards of a model, and comes here when it has
            args.distributed_state.wait_for_everyone()
        self._saves.save(state.log_history[-1] if state.log_history else {}, step=state.global_step)


def output_dir(where: Where = None) -> str:
    """Return what `output_dir` is to be."""
    return str(open_checkpoint(where).directory)


def load(where: Where = None) -> Path | None:
    """Return the newest checkpoint, to go on from: `resume_from_checkpoint=load()`; None if there is none."""
    checkpoint = go_back(where)
    found = get_last_checkpoint(checkpoint.directory) if checkpoint.has_version else None
    return Path(found) if found else None
