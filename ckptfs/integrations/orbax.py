"""JAX with Orbax: a tree of arrays every few steps, in Orbax's own layout (docs/frameworks/jax.md)."""

from typing import Any

from ckptfs.client import Version
from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise MissingPackageError("orbax-checkpoint", "jax") from error


class Checkpointer:
    """Saves and restores a tree of arrays with Orbax's CheckpointManager: `<step>/default/...`, the newest one only.

        training = Checkpointer(every=100)
        step, state = training.restore(state)
        for step in range(step, steps):
            state = update(state)
            training.stepped(step + 1, state, loss=loss)

    Args:
        where: The directory.
        every: Steps between two saves.
    """

    def __init__(self, where: Where = None, every: int = 1) -> None:
        self._saves = Saves(go_back(where), every)
        # versions keep the older ones; Orbax removes them when it has written the next
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self._saves.checkpoint.directory, options=options)

    def restore(self, state: Any) -> tuple[int, Any]:
        """Return how many steps the newest version has done and its state; 0 and the state given if there is none.

        Args:
            state: Of the shapes, types and shardings that are wanted.
        """
        step = self._manager.latest_step() if self._saves.checkpoint.has_version else None
        if step is None:
            return 0, state
        return step, self._manager.restore(step, args=ocp.args.StandardRestore(state))

    def stepped(self, step: int, state: Any, **metrics: Any) -> Version | None:
        """Save if it is time; return the version then.

        Args:
            step: How many steps are done.
            state: A tree of arrays.
            metrics: Numbers for the note.
        """
        return self.save(step, state, **metrics) if step % self._saves.every == 0 else None

    def save(self, step: int, state: Any, **metrics: Any) -> Version:
        """Save now. Called in every process: Orbax lets each write its shards."""
        for late in self._manager.all_steps():
            if late >= step:
                # Orbax writes nothing for a step that it has, or one before it
                self._manager.delete(late)
        self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        self._manager.wait_until_finished()
        return self._saves.save(metrics, step=step)
