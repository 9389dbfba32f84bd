"""scikit-learn: a loop of partial_fit, whose estimator is saved every few batches (docs/frameworks/scikit-learn.md)."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

from ckptfs.integrations.missing import MissingPackageError
from ckptfs.integrations.saving import Saves, Where, go_back, saved_file

try:
    import joblib
except ImportError as error:
    raise MissingPackageError("scikit-learn", "scikit-learn") from error

MODEL = "model.joblib"

Estimator = TypeVar("Estimator")
Batch = TypeVar("Batch")


class Checkpointer(Generic[Estimator]):
    """One estimator in training.

        training = Checkpointer(SGDClassifier(), every=10)
        for features, labels in training.rest(batches):
            training.estimator.partial_fit(features, labels, classes=classes)
            training.metrics = {"accuracy": ...}

    Args:
        estimator: To begin with; that of the newest version takes its place.
        where: The directory.
        every: Batches between two saves.

    Attributes:
        estimator: The one to fit.
        step: Batches it was fitted to.
        metrics: What the next version's note says besides the step.
    """

    def __init__(self, estimator: Estimator, where: Where = None, every: int = 1) -> None:
        self._saves = Saves(go_back(where), every)
        self.estimator = estimator
        self.step = 0
        self.metrics: Mapping[str, Any] = {}
        path = saved_file(self._saves.checkpoint, MODEL)
        if path is not None:
            # a pickle, as scikit-learn recommends: load what you saved yourself, from a store that is yours
            self.step, self.estimator = joblib.load(path)

    def rest(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches that the estimator has not seen yet; save as they are done, and after the last one."""
        for batch in islice(batches, self.step, None):
            yield batch
            self.step += 1
            if self._saves.is_due(self.step):
                self._save()
        if self.step and self._saves.is_left(self.step):
            self._save()

    def _save(self) -> None:
        joblib.dump((self.step, self.estimator), self._saves.checkpoint.directory / MODEL)
        self._saves.save(self.metrics, step=self.step)
