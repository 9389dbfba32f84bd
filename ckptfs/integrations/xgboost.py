"""XGBoost: the model after every few rounds (docs/frameworks/xgboost.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ckptfs.errors import InvalidInputError
from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, saved_file

try:
    import xgboost
except ImportError as error:
    raise MissingPackageError("xgboost", "xgboost") from error

MODEL = "model.ubj"


class Checkpointer(xgboost.callback.TrainingCallback):
    """Saves the model every few rounds and after the last one.

    Args:
        where: The directory.
        every: Rounds between two saves; rounds of the model that training began with count.
    """

    def __init__(self, where: Where = None, every: int = 1) -> None:
        super().__init__()
        self._saves = Saves(where, every)
        self._metrics: dict[str, float] = {}

    def before_training(self, model: Any) -> Any:
        """Begin. Raises InvalidInputError for a cross-validation: it has no model that could be saved."""
        if not hasattr(model, "save_model"):
            raise InvalidInputError("a cross-validation has no model to save", hint="give it to xgboost.train")
        self._saves.begin()
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Mapping[str, Sequence[Any]]]) -> bool:
        """Save if it is time; never ends training."""
        self._metrics = {f"{data}-{name}": log[-1] for data, logs in evals_log.items() for name, log in logs.items()}
        if self._saves.is_due(model.num_boosted_rounds()):
            self._save(model)
        return False

    def after_training(self, model: Any) -> Any:
        """Save the last round."""
        if self._saves.is_left(model.num_boosted_rounds()):
            self._save(model)
        return model

    def _save(self, model: Any) -> None:
        model.save_model(self._saves.checkpoint.directory / MODEL)
        self._saves.save(self._metrics, round=model.num_boosted_rounds())


def load(where: Where = None) -> xgboost.Booster | None:
    """Return the model of the newest version, to go on from: `xgb_model=load()`; None if there is none."""
    path = saved_file(go_back(where), MODEL)
    return xgboost.Booster(model_file=path) if path is not None else None
