"""A flow whose step counts, in a foreach; fails where it is told to, and says what each attempt began with."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ckptfs.metaflow import checkpoint
from metaflow import FlowSpec, Parameter, current, retry, step

POLICY = os.environ.get("POLICY", "fresh")


class Scopes(FlowSpec):
    fails = Parameter("fails", default=0, help="attempts of each task that fail")
    dies = Parameter("dies", default=0, help="1: by SIGKILL")

    @step
    def start(self):
        self.letters = ["a", "b"]
        self.next(self.count, foreach="letters")

    @retry(times=1, minutes_between_retries=0)
    @checkpoint(load_policy=POLICY)
    @step
    def count(self):
        path = Path(current.checkpoint.directory) / "count.json"
        state = json.loads(path.read_text()) if path.exists() else {"letters": "", "count": 0}
        print("began", self.input, current.retry_count, current.checkpoint.is_loaded, state["letters"], state["count"])
        assert current.checkpoint.is_loaded == path.exists()
        if os.environ.get("EARLY"):
            raise RuntimeError("fails before it has saved anything")
        for _ in range(3):
            state = {"letters": state["letters"] + self.input, "count": state["count"] + 1}
            path.write_text(json.dumps(state))
            self.last = current.checkpoint.save(name=f"count-{state['count']}", metadata={"count": state["count"]})
        if os.environ.get("DIES_WITH_RUN"):
            os.kill(os.getppid(), 9)
            os.kill(os.getpid(), 9)
        elsewhere = Path(os.environ["OWN"]) / f"elsewhere-{self.input}"
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / "best.txt").write_text(f"best of {self.input}")
        self.best = current.checkpoint.save(path=elsewhere, name="best", latest=False)
        if current.retry_count < self.fails:
            path.write_text("half writt")
            if self.dies:
                os.kill(os.getpid(), 9)
            raise RuntimeError("fails")
        program = "from ckptfs.metaflow import Checkpoint; print(Checkpoint().save(name='child')['name'])"
        for rank in ("1", "0"):
            subprocess.run([sys.executable, "-c", program], env=os.environ | {"RANK": rank}, check=True)
        self.names = [each["name"] for each in current.checkpoint.list()]
        current.checkpoint.load(self.best)
        assert (Path(current.checkpoint.directory) / "best.txt").read_text() == f"best of {self.input}"
        current.checkpoint.refresh_directory()
        assert os.listdir(current.checkpoint.directory) == []
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [(each.input, each.last, each.best, each.names) for each in inputs]
        self.next(self.end)

    @checkpoint
    @step
    def end(self):
        for letter, last, _, names in self.results:
            assert not current.checkpoint.is_loaded
            current.checkpoint.load(last)
            state = json.loads((Path(current.checkpoint.directory) / "count.json").read_text())
            current.checkpoint.refresh_directory()
            print("ended", letter, state["letters"], state["count"], json.dumps(names))


if __name__ == "__main__":
    Scopes()
