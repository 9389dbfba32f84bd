"""A flow whose store goes away while its step ends."""

import os
import signal
from pathlib import Path

from ckptfs.metaflow import checkpoint
from metaflow import FlowSpec, current, retry, step


class Away(FlowSpec):
    @retry(times=0 if os.environ.get("FAILS") else 2, minutes_between_retries=0)
    @checkpoint(store=os.environ.get("STORE"), drain_timeout=1)
    @step
    def start(self):
        print("stepped", current.retry_count)
        Path(current.checkpoint.directory, "model").write_bytes(os.urandom(1000))
        store = Path(os.environ["STORE"].removeprefix("file://"))
        os.rename(store, f"{store}-away")
        Path(store).write_text("in its place")
        current.checkpoint.save()
        if os.environ.get("FAILS"):
            signal.setitimer(signal.ITIMER_REAL, 0.3)  # as that of @timeout
            raise RuntimeError("fails")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Away()
