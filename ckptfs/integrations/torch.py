"""PyTorch: a plain loop, whose model, optimizer and the like are saved every few steps (docs/frameworks/pytorch.md)."""

from typing import Any, Protocol

from ckptfs.client import Version
from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back

try:
    import torch
except ImportError as error:
    raise MissingPackageError("torch", "torch") from error

STATE = "state.pt"


class Stateful(Protocol):
    """Modules, optimizers, schedulers, scalers, stateful data loaders, ..."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state over."""


class Checkpointer:
    """Saves and restores all that a loop needs to go on, random numbers included.

        training = Checkpointer(every=100, model=model, optimizer=optimizer)
        for step in range(training.restore(), steps):
            ...
            training.stepped(step + 1, loss=loss)

    Args:
        where: The directory.
        every: Steps between two saves.
        parts: What has a state, by name.
    """

    def __init__(self, where: Where = None, *, every: int = 1, **parts: Stateful) -> None:
        self._checkpoint = go_back(where)
        self._saves = Saves(self._checkpoint, every)
        self._path = self._checkpoint.directory / STATE
        self._parts = parts

    def restore(self) -> int:
        """Load the newest version into the parts; return how many steps it has done, 0 if there is none."""
        if not self._path.exists():
            return 0
        # weights_only: a state made of tensors and plain values; nothing in the file is run
        state = torch.load(self._path, map_location="cpu", weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        return int(state["step"])

    def stepped(self, step: int, **metrics: Any) -> Version | None:
        """Save if it is time; return the version then.

        Args:
            step: How many steps are done.
            metrics: Of one element, if they are tensors.
        """
        return self.save(step, **metrics) if self._saves.is_due(step) else None

    def save(self, step: int, **metrics: Any) -> Version:
        """Save now; in another rank than the first it is none."""
        if self._checkpoint.is_saver:
            state = {
                "step": step,
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            }
            torch.save(state, self._path)
        return self._saves.save(metrics, step=step)
