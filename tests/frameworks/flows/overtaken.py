"""A flow whose second attempt finds the mount of the first one, from which another machine has taken the store over."""

import os
import subprocess
import sys
from pathlib import Path

from ckptfs.metaflow import checkpoint
from metaflow import FlowSpec, current, retry, step


class Overtaken(FlowSpec):
    @retry(times=1, minutes_between_retries=0)
    @checkpoint
    @step
    def start(self):
        model = Path(current.checkpoint.directory, "model")
        print("began", current.retry_count, model.read_text() if current.checkpoint.is_loaded else None)
        if current.retry_count == 0:
            model.write_text("here")
            store = current.checkpoint.save()["url"]
            other = Path(os.environ["OWN"]) / "other"
            other.mkdir()
            self.ckptfs("save", current.checkpoint.directory, "--wait")
            self.ckptfs("mount", store, other, "--cache-dir", f"{other}-cache", "--takeover")
            (other / "checkpoint" / "model").write_text("elsewhere")
            self.ckptfs("save", other, "--wait")
            self.ckptfs("umount", other)
            if os.environ.get("NOTICES"):
                subprocess.run(["sync", model.with_name(".save")], check=False)
            os.kill(os.getpid(), 9)
        self.next(self.end)

    def ckptfs(self, *arguments):
        subprocess.run([sys.executable, "-m", "ckptfs", *arguments], check=True)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Overtaken()
