"""A flow of two steps that do nothing."""

from metaflow import FlowSpec, step


class Bare(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Bare()
