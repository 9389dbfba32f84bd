"""The step decorator: mounts a task's store before the step, and takes the mount away after it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metaflow.decorators import StepDecorator
from metaflow.exception import MetaflowException
from metaflow.metadata_provider import MetaDatum

from ckptfs.errors import CkptfsError, FencedError, ReadOnlyError
from ckptfs.metaflow import card, command, leftover, lineage
from ckptfs.metaflow.reference import Reference
from ckptfs.metaflow.scope import Scope, scope_of_task, store_root
from ckptfs.metaflow.task import TaskCheckpoint

POLICIES = ("fresh", "eager", "none")

_RANK = "rank "


class CheckpointError(MetaflowException):
    """@checkpoint is used in a way that cannot work, or the store cannot be mounted."""

    headline = "@checkpoint failed"


class CheckpointDecorator(StepDecorator):
    """Gives a step `current.checkpoint`: a directory whose versions are saved, and found again by the next attempt.

    Args:
        load_policy: What the step begins with. `fresh` (None is the same): the newest version of the task's earlier
            attempts, or of the task that a resumed run has in its place. `eager`: if there is none, the newest of an
            earlier run of the same user, too. `none`: nothing, ever.
        store: Where the stores of the tasks are: s3://BUCKET/PREFIX or file:///DIRECTORY. None takes
            $CKPTFS_METAFLOW_STORE, else beside Metaflow's own data.
        temp_dir_root: Where it is mounted. None takes $CKPTFS_METAFLOW_DIR, else a directory in /tmp.
        show_card: Give the step a card with the versions.
        drain_timeout: Seconds that the end of the step waits for versions to become durable.
    """

    name = "checkpoint"
    defaults = {  # noqa: RUF012 (as Metaflow reads it)
        "load_policy": "fresh",
        "store": None,
        "temp_dir_root": None,
        "show_card": True,
        "drain_timeout": 300,
    }

    def step_init(
        self,
        flow: Any,
        graph: Any,
        step_name: str,
        decorators: Any,
        environment: Any,
        flow_datastore: Any,
        logger: Callable[..., None],
    ) -> None:
        """Check the attributes, and attach the card."""
        self._check_attributes()
        self._datastore, self._logger = flow_datastore, logger
        self._task: TaskCheckpoint | None = None
        if self._shows_card:
            card.attach(flow, step_name)

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        """Mount, load what the policy says, and set `current.checkpoint`."""
        from metaflow import current

        if retry_count > max_user_code_retries:
            return  # the step itself is not run any more: @catch does the rest
        pathspec = f"{current.flow_name}/{run_id}/{step_name}/{task_id}"
        place = _place(flow, current)
        try:
            self._cwd = os.getcwd()
            root = store_root(self.attributes["store"], self._datastore)
            scope = scope_of_task(root, current.username, pathspec, retry_count, self.attributes["temp_dir_root"])
            _register(metadata, run_id, step_name, task_id, retry_count, scope, place)
            self._lock = leftover.take(scope)
            leftover.send_for(scope)
            self._begin(scope, current, place)
        except CkptfsError as error:
            raise CheckpointError(f"{error.fact}{f' ({error.hint})' if error.hint else ''}") from error
        except OSError as error:
            raise CheckpointError(f"{error.filename or 'its directory'} cannot be used: {error.strerror}") from error
        os.environ.update(scope.export(os.environ))
        current._update_env({"checkpoint": self._task})

    def task_post_step(
        self, step_name: str, flow: Any, graph: Any, retry_count: int, max_user_code_retries: int
    ) -> None:
        """The step has finished."""
        self._end()

    def task_exception(
        self,
        exception: BaseException,
        step_name: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
    ) -> None:
        """The step has failed: the next attempt may be on another machine, so that all must be durable."""
        self._end()

    @property
    def _shows_card(self) -> bool:
        # from the command line, --with checkpoint:show_card=False, it is text
        return str(self.attributes["show_card"]).lower() != "false"

    def _check_attributes(self) -> None:
        # None, as metaflow-checkpoint takes it
        self._policy = self.attributes["load_policy"] or POLICIES[0]
        if self._policy not in POLICIES:
            raise CheckpointError(f"load_policy is {self._policy!r}, expected one of {', '.join(POLICIES)}")
        for name in ("store", "temp_dir_root"):
            if not isinstance(self.attributes[name], str | os.PathLike | None):
                raise CheckpointError(f"{name} is {self.attributes[name]!r}, expected a text")
        try:
            self._drain_timeout_s = float(self.attributes["drain_timeout"])
        except (TypeError, ValueError):
            self._drain_timeout_s = -1.0
        if not self._drain_timeout_s >= 0:
            raise CheckpointError(f"drain_timeout is {self.attributes['drain_timeout']!r}, expected seconds")

    def _begin(self, scope: Scope, current: Any, place: str) -> None:
        try:
            self._begin_once(scope, current, place)
        except CkptfsError as error:
            # only now it may have noticed that another attempt, elsewhere, has taken the store over since
            if not isinstance(error, ReadOnlyError | FencedError) and not command.is_fenced(scope.mountpoint):
                raise
            command.give_up(scope)
            self._begin_once(scope, current, place)

    def _begin_once(self, scope: Scope, current: Any, place: str) -> None:
        why_watched = command.mount(scope)
        if why_watched is not None:
            self._say(f"{why_watched}: the directory is watched instead")
        self._task = task = TaskCheckpoint(scope, ranks="all")
        task.refresh_directory()
        found = self._found(task, current, place) if self._policy != "none" else None
        if found is not None:
            task.begin_with(found)
            by = "" if found["attempt"] is None else f" by attempt {found['attempt']}"
            self._say(f"began with {found['key']}, saved at {found['created_on']}{by}")

    def _found(self, task: TaskCheckpoint, current: Any, place: str) -> Reference | None:
        """Return what the task is to begin with (F2).

        Of ranks where only the first one saves, the others go on from what that one began with.
        """
        flow, run, step, task_id = task.scope.pathspec.split("/")
        places, found = [place], task.newest()
        control = current.parallel.control_task_id if current.get("parallel") else None
        if control and control != task_id:
            places.append(_of_first_rank(place))
            found = found or lineage.of_task(flow, run, step, control, before_attempt=task.scope.attempt)
        for where in places:
            found = found or lineage.resumed(flow, current.origin_run_id, step, where)
        if self._policy == "eager":
            for where in places:
                found = found or lineage.earlier(flow, run, step, where)
        return found

    def _end(self) -> None:
        """Wait for the versions, fill the card, and unmount; what fails is said (F4)."""
        # an alarm of @timeout that goes off from now on would have a finished step run again, or leave that of one that
        # has failed with versions that the next attempt, on another machine, does not find
        signal.alarm(0)
        task, self._task = self._task, None
        if task is None:
            return
        try:
            task.wait(self._drain_timeout_s)
            if self._shows_card:
                self._fill_card(task)
        except Exception as error:
            self._say(f"{error}; what is not durable is kept in {task.scope.directory}")
            return
        try:
            self._leave(task.scope)
            command.umount(task.scope)
        except Exception as error:
            self._say(f"all versions are durable, but {task.scope.directory} stays: {error}")

    def _leave(self, scope: Scope) -> None:
        """Go back from within the mount, which would be in use."""
        if Path.cwd().is_relative_to(os.path.realpath(scope.mountpoint)):
            os.chdir(self._cwd)

    def _fill_card(self, task: TaskCheckpoint) -> None:
        from metaflow import current

        try:
            card.fill(current.card[card.CARD], task.info, task.references())
        except Exception as error:
            self._say(f"the card has no checkpoints: {error}")

    def _say(self, text: str) -> None:
        self._logger(f"[@checkpoint] {text}", timestamp=False)


def _place(flow: Any, current: Any) -> str:
    """Return which of its step's tasks this is: the indices of the foreach it is in, and its rank."""
    indices = [str(frame[0]) for frame in flow.foreach_stack() or ()]
    if current.get("parallel") and current.parallel.num_nodes > 1:
        # the innermost index is the rank
        return "/".join([*indices[:-1], f"{_RANK}{current.parallel.node_index}"])
    return "/".join(indices)


def _of_first_rank(place: str) -> str:
    return f"{place.rpartition(_RANK)[0]}{_RANK}0"


def _register(metadata: Any, run_id: str, step_name: str, task_id: str, attempt: int, scope: Scope, place: str) -> None:
    """Say which store the task has, so that others find it."""
    entries = [
        MetaDatum(field=field, value=value, type="checkpoint", tags=[f"attempt_id:{attempt}"])
        for field, value in ((lineage.STORE, scope.store), (lineage.PLACE, place))
    ]
    metadata.register_metadata(run_id, step_name, task_id, entries)
