"""The story of an example that mounts by itself, as a Metaflow step with @checkpoint does: its tasks have stores."""

import contextlib
import os
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.processes import tree_of
from bench.product import read_ckptfs, run_ckptfs
from ckptfs.mount_table import Mount, mounts
from examples.machine import ExampleError, Machine, Program, clear_away, kill_all
from examples.story import Curve, Outcome, Story, newest


class FlowStory(Story):
    """One run of a flow; arguments as for Story. Its stores are in a directory."""

    def tell(self) -> Outcome:
        """Run it all. Raises ExampleError where something is not as it must be."""
        before, store = self._run_until_lost()
        version, resumed_step = newest(store, self._env)
        after = self._run_to_the_end("machine-2", self._example.again)
        whole = self._run_to_the_end("uninterrupted", self._example.command)
        outcome = self._outcome(store, version, resumed_step, before, after, whole)
        self._judge(outcome)
        run_ckptfs("verify", store, "--read-data", env=self._env)
        return outcome

    def _run_until_lost(self) -> tuple[Curve, str]:
        machine = self._machine("machine-1")
        with self._flow(machine, self._example.command) as flow:
            try:
                progress = self._progress(flow.lines(), done=0)
                curve: Curve = {}
                for step, loss in progress:
                    curve[step] = loss
                    if step >= self._kill_step:
                        break
                if not (found := _mounts_below(self._work / "machine-1")):
                    raise ExampleError(f"no task has a mount, after {len(curve)} lines")
                self._wait_for_a_version(found[0].store)
                flow.kill()
            finally:
                _lose_mounts(self._work / "machine-1")
            curve.update(progress)
        return curve, found[0].store

    def _run_to_the_end(self, name: str, command: Sequence[str]) -> Curve:
        machine = self._machine(name)
        with self._flow(machine, command) as flow:
            try:
                curve = dict(self._progress(flow.lines(), done=0))
                flow.end()
            finally:
                _lose_mounts(self._work / name)
        return curve

    def _flow(self, machine: Machine, command: Sequence[str]) -> AbstractContextManager[Program]:
        # Metaflow leaves files where it runs
        return machine.program([word.format(folder=self._example.folder) for word in command], self._work)

    def _machine(self, name: str) -> Machine:
        (self._work / name).mkdir()
        own = {
            "METAFLOW_USER": "ann",
            "METAFLOW_HOME": str(self._work / "home"),
            # what S3 would be: the machines share it, and nothing else
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self._work / "metaflow"),
            "CKPTFS_METAFLOW_DIR": str(self._work / name / "mounts"),
        }
        return Machine(self._work, name, "", {**self._env, **own})


def _mounts_below(directory: Path) -> list[Mount]:
    return [mount for mount in mounts() if mount.mountpoint.is_relative_to(directory)]


def _lose_mounts(directory: Path) -> None:
    """Kill -9 the processes of all mounts below a directory; a step that has ended has left none."""
    for mount in _mounts_below(directory):
        keeper = int(read_ckptfs("status", str(mount.mountpoint), env={})["keeper"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGSTOP)
        kill_all(tree_of(keeper))
        clear_away(mount.mountpoint)
