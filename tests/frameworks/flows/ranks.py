"""A flow whose step has two ranks, of which the first saves; the first attempt fails."""

from pathlib import Path

from ckptfs.metaflow import checkpoint
from metaflow import FlowSpec, current, parallel, retry, step


class Ranks(FlowSpec):
    @step
    def start(self):
        self.next(self.train, num_parallel=2)

    @retry(times=1, minutes_between_retries=0)
    @checkpoint
    @parallel
    @step
    def train(self):
        rank = current.parallel.node_index
        path = Path(current.checkpoint.directory) / "state"
        print("began", rank, current.retry_count, path.read_text() if current.checkpoint.is_loaded else None)
        path.write_text(f"of rank {rank}")
        if rank == 0:
            current.checkpoint.save()
        if current.retry_count == 0:
            raise RuntimeError("fails")
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Ranks()
