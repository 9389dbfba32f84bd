"""Metaflow: `@checkpoint` of the shape of metaflow-checkpoint, over a mount of each task's own store.

    from ckptfs.metaflow import checkpoint        # or, as an extension: from metaflow import checkpoint

Rules:
    F1  every task has a store of its own, so that attempts of a task share one, and nothing else does: not the tasks of
        a foreach, not the ranks of @parallel, not runs, not users
    F2  what a task begins with is the newest version of its own store; if there is none, that of the task of the run
        which was resumed, and so on; with `eager`, also that of an earlier run; with `none`, never anything
    F3  a save returns when it is captured; the end of the step waits until all are durable
    F4  whatever fails when a step has ended is said, and does not fail the step
"""

from functools import partial
from typing import Any

from ckptfs.integrations.missing import MissingPackageError

try:
    from metaflow.decorators import _base_step_decorator
except ImportError as error:
    raise MissingPackageError("metaflow", "metaflow") from error

from ckptfs.metaflow.decorator import CheckpointDecorator
from ckptfs.metaflow.outside import Checkpoint

__all__ = ["Checkpoint", "CheckpointDecorator", "checkpoint"]


def checkpoint(*function: Any, **attributes: Any) -> Any:
    """Give a step `current.checkpoint`. See CheckpointDecorator for the attributes."""
    if function:
        return _base_step_decorator(CheckpointDecorator, *function, **attributes)
    return partial(_base_step_decorator, CheckpointDecorator, **attributes)
