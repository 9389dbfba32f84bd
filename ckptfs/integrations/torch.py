"""PyTorch: a plain loop, whose model, optimizer and the like are saved every few steps (docs/frameworks/pytorch.md)."""

import pickle
import re
from pathlib import Path
from typing import Any, Protocol

from ckptfs.client import Version
from ckptfs.errors import InvalidInputError
from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, saved_file

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

    Raises:
        InvalidInputError: One of the parts has none.
    """

    def __init__(self, where: Where = None, *, every: int = 1, **parts: Stateful) -> None:
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise InvalidInputError(f"{name} has no state: it is {part!r:.100}")
        self._checkpoint = go_back(where)
        self._saves = Saves(self._checkpoint, every)
        self._parts = parts

    def restore(self) -> int:
        """Load the newest version into the parts; return how many steps it has done, 0 if there is none.

        Raises:
            InvalidInputError: It has not all of the parts.
        """
        path = saved_file(self._checkpoint, STATE)
        if path is None:
            return 0
        # weights_only: a state made of tensors and plain values; nothing in the file is run
        state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := self._parts.keys() - state["parts"].keys():
            raise InvalidInputError(
                f"{path} has no state of {', '.join(sorted(missing))}: it has {', '.join(sorted(state['parts']))}",
                hint="restore with the parts that it has, then make a Checkpointer of all",
            )
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
        """Save now; in another rank than the first it is none.

        Raises:
            InvalidInputError: A part's state could not be restored, as the first save finds.
        """
        if self._checkpoint.is_saver:
            state = {
                "step": step,
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            }
            path = self._checkpoint.directory / STATE
            torch.save(state, path)
            if self._saves.saved_step is None:
                # at the first save alone: it takes half a millisecond for each tensor
                _check(path)
        return self._saves.save(metrics, step=step)


def _check(path: Path) -> None:
    """Raise InvalidInputError if `restore` would refuse a state: now, and not when training has been killed."""
    try:
        # mapped, so that nothing of the tensors is read
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InvalidInputError(
            f"{path} could not be restored, as a part's state has {kind[1] if kind else 'a type'} in it",
            hint="make it of tensors, numbers, text, dicts, lists, or allow it: torch.serialization.add_safe_globals",
        ) from error
