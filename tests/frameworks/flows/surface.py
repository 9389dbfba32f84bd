"""A flow that uses what metaflow-checkpoint offers by its names and in its order, and saves in other ways."""

import math
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metaflow import Checkpoint, FlowSpec, checkpoint, current, retry, step


class Surface(FlowSpec):
    @retry(times=1, minutes_between_retries=0)
    @checkpoint(load_policy=None)
    @step
    def start(self):
        directory = Path(current.checkpoint.directory)
        if current.retry_count == 0:
            os.chdir(directory)  # and stays there
            subprocess.run("echo trained > model; echo step=7 > .save", shell=True, check=True)
            raise RuntimeError("fails")
        info = current.checkpoint.info
        print("began", (directory / "model").read_text().strip(), info.metadata, info.to_dict()["name"], info.attempt)
        lossy = Checkpoint().save(directory, {"loss": math.nan}, False, "lossy", "files")
        print("saved", lossy["metadata"], lossy["latest"], lossy["size"], lossy["storage_format"])
        listed = current.checkpoint.list("lossy", current.pathspec, 1)
        assert listed == current.checkpoint.list(name="lossy") == Checkpoint().list(name="lossy", task=current.pathspec)
        print("listed", [each["metadata"] for each in current.checkpoint.list(full_namespace=True)])
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(self.save_from_elsewhere, range(4)))
        for saved in current.checkpoint.list(name="mine"):
            current.checkpoint.load(saved)
            assert (directory / "who").read_text() == saved["metadata"]["who"]
        self.next(self.end)

    def save_from_elsewhere(self, number):
        elsewhere = Path(os.environ["OWN"]) / f"elsewhere-{number}"
        elsewhere.mkdir(exist_ok=True)
        for who in (f"{number} first", f"{number} then"):
            (elsewhere / "who").write_text(who)
            current.checkpoint.save(elsewhere, "mine", {"who": who})

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Surface()
