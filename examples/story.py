"""The story of an example: train, lose the machine, go on elsewhere, compare with a run that nothing interrupted."""

import contextlib
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.product import read_ckptfs, run_ckptfs
from examples.example import Example
from examples.machine import ExampleError, Machine

# a server that imports torch on a busy machine takes half a minute
_WAIT_S = 120.0

Curve = dict[int, float]
"""Step to loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened."""

    killed_step: int
    """The last of which something was heard: a line, or a version (it is killed while it waits to print a line)."""
    version: int
    """From which training went on."""
    resumed_step: int
    """That this version had."""
    before: Curve
    after: Curve
    whole: Curve
    """Of the run that nothing interrupted."""
    versions: int
    bytes: int
    """Of all versions together."""
    bytes_added: int
    """What they take in the store."""
    served: list[str] = field(default_factory=list)
    """What the program beside the trainer told."""

    @property
    def difference(self) -> float:
        """The largest between the losses of the resumed run and the uninterrupted one."""
        return max(abs(loss - self.whole[step]) for step, loss in self.after.items())

    def __str__(self) -> str:
        same = "the same losses as" if not self.difference else f"losses at most {self.difference:.1e} off"
        return (
            f"killed after step {self.killed_step}, went on from version {self.version} (step {self.resumed_step}), "
            f"{same} an uninterrupted run; {self.versions} versions of {self.bytes:,} bytes take {self.bytes_added:,}"
        )


class Story:
    """One run of an example.

    Args:
        example: Which.
        work: An empty directory.
        data: The digits.
        base: URL of the place where stores are made.
        env: Besides the present environment: where S3 is.
        seed: Decides at which step the machine is lost.
    """

    def __init__(self, example: Example, work: Path, data: Path, base: str, env: Mapping[str, str], seed: int) -> None:
        self._example = example
        self._work = work
        self._data = data
        self._base = base
        self._env = env
        self._told: list[str] = []
        draw = random.Random(f"{seed} {example.name}")
        # a version is there then, and some steps are left: the program may be two ahead of what was read
        self._kill_step = draw.randint(example.every + 1, example.steps - max(example.every, 3))

    def tell(self) -> Outcome:
        """Run it all. Raises ExampleError where something is not as it must be."""
        store = f"{self._base}/run"
        with contextlib.ExitStack() as stack:
            machine = stack.enter_context(Machine(self._work, "machine-1", store, self._env))
            self._build(machine)
            with self._served(store):
                before = self._train_until_lost(machine, store)
                version, resumed_step = newest(store, self._env)
                after = self._train_to_the_end("machine-2", store, resumed_step)
        whole = self._train_to_the_end("uninterrupted", f"{self._base}/whole", 0)
        outcome = self._outcome(store, version, resumed_step, before, after, whole)
        self._judge(outcome)
        run_ckptfs("verify", store, "--read-data", env=self._env)
        return outcome

    def _build(self, machine: Machine) -> None:
        if self._example.build:
            command = self._filled(self._example.build, machine)
            subprocess.run(command, cwd=self._example.folder, env=machine.env, check=True)

    def _train_until_lost(self, machine: Machine, store: str) -> Curve:
        with machine.program(self._filled(self._example.command, machine), self._example.folder) as trainer:
            curve: Curve = {}
            progress = self._progress(trainer.lines(), done=0)
            for step, loss in progress:
                curve[step] = loss
                if step >= self._kill_step:
                    break
            else:
                trainer.end()
                raise ExampleError(f"the trainer ended before step {self._kill_step}, after {len(curve)} lines")
            # it waits for its output to be read meanwhile; on a busy machine no version may have come this far
            self._wait_for_a_version(store)
            _wait_until(lambda: bool(self._told) or not self._example.serve, "a version is served")
            trainer.kill()
            machine.lose()
            curve.update(progress)
        return curve

    def _train_to_the_end(self, name: str, store: str, done: int) -> Curve:
        with Machine(self._work, name, store, self._env) as machine:
            with machine.program(self._filled(self._example.command, machine), self._example.folder) as trainer:
                curve = dict(self._progress(trainer.lines(), done))
                trainer.end()
            machine.umount()
        return curve

    @contextlib.contextmanager
    def _served(self, store: str) -> Iterator[None]:
        """Run the program beside the trainer, if there is one; wait for its end."""
        if not self._example.serve:
            yield
            return
        # a store is there from its first mount for writing on
        with Machine(self._work, "server", store, self._env, "--read-only", "--follow") as machine:
            with machine.program(self._filled(self._example.serve, machine), self._example.folder) as server:
                reader = threading.Thread(target=lambda: self._told.extend(server.lines()), daemon=True)
                reader.start()
                yield
                # it ends by itself, with the version of the last step
                reader.join(_WAIT_S)
                if reader.is_alive():
                    raise ExampleError(f"the server still runs; it told {self._told}")
                server.end()

    def _wait_for_a_version(self, store: str) -> None:
        _wait_until(lambda: bool(read_ckptfs("log", store, env=self._env)), "a version is durable")

    def _progress(self, lines: Iterable[str], done: int) -> Iterator[tuple[int, float]]:
        offset = (1 - self._example.counted_from) + (done if self._example.counts_anew else 0)
        for line in lines:
            if found := re.search(self._example.progress, line):
                yield int(found["step"]) + offset, float(found["loss"])

    def _filled(self, command: Iterable[str], machine: Machine) -> list[str]:
        places = {"ckpt": machine.ckpt, "follow": machine.ckpt, "data": self._data, "work": self._work}
        return [word.format(**places) for word in command]

    def _outcome(
        self, store: str, version: int, resumed_step: int, before: Curve, after: Curve, whole: Curve
    ) -> Outcome:
        versions = read_ckptfs("log", store, env=self._env)
        return Outcome(
            killed_step=max(*before, resumed_step),
            version=version,
            resumed_step=resumed_step,
            before=before,
            after=after,
            whole=whole,
            versions=len(versions),
            bytes=sum(each["bytes"] for each in versions),
            bytes_added=sum(each["bytes_added"] for each in versions),
            served=self._told,
        )

    def _judge(self, outcome: Outcome) -> None:
        """Raise ExampleError unless training went on where it was, and as if nothing had happened."""
        steps = self._example.steps
        if not outcome.after or min(outcome.after) != outcome.resumed_step + 1 or max(outcome.after) != steps:
            told = f"{min(outcome.after)} to {max(outcome.after)}" if outcome.after else "none"
            raise ExampleError(f"resumed with steps {told}, expected {outcome.resumed_step + 1} to {steps}")
        if sorted(outcome.whole) != list(range(1, steps + 1)):
            raise ExampleError(f"the uninterrupted run told of {len(outcome.whole)} steps, expected {steps}")
        if self._example.serve and f"step {steps}:" not in "".join(outcome.served[-1:]):
            raise ExampleError(f"the newest version was not served: {outcome.served}")
        if outcome.difference > self._example.tolerance:
            raise ExampleError(
                f"a loss is {outcome.difference:.3g} off that of the uninterrupted run; "
                f"at most {self._example.tolerance:g} is expected"
            )


def newest(store: str, env: Mapping[str, str]) -> tuple[int, int]:
    """Return the number and the step of the newest version."""
    found = read_ckptfs("log", store, "-n", "1", env=env)[0]
    # Metaflow's has the program's own below
    note = found["note"].get("metadata", found["note"])
    return found["version"], next(note[name] for name in ("step", "round", "epoch") if name in note)


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise ExampleError(f"after {_WAIT_S:.0f} s still not so: {what}")
        time.sleep(0.1)
