"""LightGBM: the model after every few iterations (docs/frameworks/lightgbm.md)."""

from typing import Any

from ckptfs.errors import InvalidInputError
from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, saved_file

try:
    import lightgbm
except ImportError as error:
    raise MissingPackageError("lightgbm", "lightgbm") from error

MODEL = "model.txt"


class Checkpointer:
    """Saves the model every few iterations and after the last one: `callbacks=[Checkpointer()]`.

    Args:
        where: The directory.
        every: Iterations between two saves; those of the model that training began with count.
    """

    order = 100
    """After LightGBM's own callbacks, of which the last has 30."""
    before_iteration = False

    def __init__(self, where: Where = None, every: int = 1) -> None:
        self._saves = Saves(where, every)

    def __call__(self, env: Any) -> None:
        """Save if it is time. Raises InvalidInputError for a cross-validation: it has no model that could be saved."""
        if isinstance(env.model, lightgbm.CVBooster):
            raise InvalidInputError("a cross-validation has no model to save", hint="give it to lightgbm.train")
        if env.iteration == env.begin_iteration:
            self._saves.begin()
        iteration = env.model.current_iteration()
        is_last = env.iteration + 1 == env.end_iteration and self._saves.is_left(iteration)
        if self._saves.is_due(iteration) or is_last:
            env.model.save_model(self._saves.checkpoint.directory / MODEL, num_iteration=-1)
            metrics = {f"{data}-{name}": value for data, name, value, *_ in env.evaluation_result_list or ()}
            self._saves.save(metrics, iteration=iteration)


def load(where: Where = None) -> Any:
    """Return the model of the newest version, to go on from: `init_model=load()`; None if there is none."""
    path = saved_file(go_back(where), MODEL)
    return lightgbm.Booster(model_file=path) if path is not None else None
