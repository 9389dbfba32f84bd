import os
import pickle
from metaflow import current
import xgboost


class Checkpointer(xgboost.callback.TrainingCallback):
    @classmethod
    def _path(cls):
        return os.path.join(current.checkpoint.directory, "xgb_cp.pkl")

    def __init__(self, interval=10):
        self._interval = interval

    def after_iteration(self, model, epoch, evals_log):
        if epoch > 0 and epoch % self._interval == 0:
            with open(self._path(), "wb") as f:
                pickle.dump(model, f)
            current.checkpoint.save()

    @classmethod
    def load(cls):
        with open(cls._path(), "rb") as f:
            return pickle.load(f)
