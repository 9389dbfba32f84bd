"""Ray Train: a version instead of a Ray checkpoint, from within the training function (docs/frameworks/ray.md).

A checkpoint that is handed to ray.train.report is copied to Ray's storage, whole, while the workers wait. Here the
mount is the storage: Ray is told the metrics and the version's number, and starts workers anew after a failure.
"""

from collections.abc import Mapping
from typing import Any

from ckptfs.client import Checkpoint, Version, checkpoint
from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, come_to

try:
    import ray.train
except ImportError as error:
    raise MissingPackageError("ray", "ray") from error
try:
    from ray.train.collective import barrier, broadcast_from_rank_zero
except ImportError:
    broadcast_from_rank_zero = None  # of Ray Train v1, which leaves it to torch.distributed


class Checkpointer:
    """What a worker's training function saves and goes on from: each worker makes one.

        training = Checkpointer("/ckpt/run")
        if training.is_loaded: ...                      # read training.directory
        for epoch in ...:
            ...                                         # write training.directory, where is_first
            training.report({"epoch": epoch, "loss": loss})

    Args:
        where: A directory of a mount that this worker's machine has; None takes $CKPTFS_DIR.

    Attributes:
        directory: Where to read and write.
        is_first: True in the worker of world rank 0, which saves for all.
        is_loaded: True if there is a version to go on from.
    """

    def __init__(self, where: str | None = None) -> None:
        self.is_first = ray.train.get_context().get_world_rank() == 0
        self._checkpoint: Checkpoint = checkpoint(where)
        self._saves = Saves(self._checkpoint, every=1)
        self.directory = self._checkpoint.directory
        self.is_loaded = self._checkpoint.is_loaded
        if self.is_loaded and self.is_first:
            self._checkpoint.load()
        if broadcast_from_rank_zero is not None:
            # all begin as the first does, and read only now: no longer what a killed one had half written
            latest = self._checkpoint.latest if self.is_first and self.is_loaded else None
            number = broadcast_from_rank_zero(latest.number if latest is not None else 0)
            self.is_loaded = bool(number)
            come_to(self._checkpoint, number)
            barrier()  # or the first would save the next one while others wait for this

    def report(self, metrics: Mapping[str, Any], step: int) -> Version | None:
        """Save in the first worker, and report the metrics to Ray in all: every worker must call it."""
        version = self._saves.save(metrics, step=step) if self.is_first else None
        ray.train.report({**metrics, "step": step, "ckptfs_version": version.number if version else 0})
        return version
