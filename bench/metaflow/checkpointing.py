"""What both flows import as `xgboost_checkpointer`: a callback that writes down when what happened.

It fails once, after the round of $FAIL_AT, as a machine that goes away does to a program.
"""

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import xgboost
from metaflow import current

_EVENTS = Path(os.environ["EVENTS"])
_BESIDE_BYTES = int(os.environ["BESIDE_BYTES"])


def _say(event: str, **facts: float) -> None:
    with _EVENTS.open("a") as events:
        events.write(json.dumps({"event": event, "time": time.time(), **facts}) + "\n")


class Checkpointer(xgboost.callback.TrainingCallback):
    """Saves every few rounds."""

    def __init__(self, interval: int = 10) -> None:
        super().__init__()
        self._interval = interval
        beside = Path(current.checkpoint.directory) / "beside.bin"
        if _BESIDE_BYTES and not beside.exists():
            beside.write_bytes(os.urandom(_BESIDE_BYTES))

    @classmethod
    def _path(cls) -> str:
        return os.path.join(current.checkpoint.directory, "xgb_cp.pkl")

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Save if it is time."""
        if epoch > 0 and epoch % self._interval == 0:
            began_s = time.perf_counter()
            with open(self._path(), "wb") as file:
                pickle.dump(model, file)
            current.checkpoint.save()
            _say("saved", took_s=time.perf_counter() - began_s)
        if epoch == int(os.environ["FAIL_AT"]) and current.retry_count == 0:
            _say("failed")
            raise RuntimeError("a failure that is part of the measurement")
        return False

    @classmethod
    def load(cls) -> Any:
        """Return the model of the newest version."""
        with open(cls._path(), "rb") as file:
            model = pickle.load(file)
        beside = Path(current.checkpoint.directory) / "beside.bin"
        _say("resumed", read_bytes=len(beside.read_bytes()) if _BESIDE_BYTES else 0)
        return model
