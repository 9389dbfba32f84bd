"""A flow that saves what lies in odd places, in a step with a card of its own."""

import os
from pathlib import Path

from ckptfs.errors import InvalidInputError
from metaflow import FlowSpec, card, checkpoint, current, step
from metaflow.cards import Markdown


class Odd(FlowSpec):
    @card(type="blank", id="own")
    @checkpoint
    @step
    def start(self):
        current.card.append(Markdown("what the step appended"))
        elsewhere = Path(os.environ["OWN"]) / "elsewhere"
        elsewhere.mkdir()
        for name in (".save", "model"):
            (elsewhere / name).write_text("step=1")
        saved = current.checkpoint.save(path=elsewhere)
        print("saved", saved["version_id"], len(current.checkpoint.list()))
        os.chdir(os.environ["OWN"])
        for path in (os.environ["OWN"], "", ".", "missing"):
            try:
                current.checkpoint.save(path=path)
            except InvalidInputError as error:
                print("refused", error)
        os.chdir(Path(__file__).parent)
        current.checkpoint.load(saved)
        print("loaded", os.listdir(current.checkpoint.directory))
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Odd()
