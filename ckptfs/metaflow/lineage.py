"""What a task may begin with when its own store has nothing: found by what Metaflow knows of other tasks (F2).

Every task says in its metadata which store it has, and which of its step's tasks it is: the task of a resumed run has
another id, but the same place in the foreach, or the same rank.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ckptfs.errors import InvalidInputError
from ckptfs.metaflow import command
from ckptfs.metaflow.reference import Reference, of_version

STORE, PLACE = "ckptfs-store", "ckptfs-place"

# a chain of resumed runs, or of runs that never saved; beyond it nobody can tell any more what a version has to do
# with the task
_MOST_RUNS = 50


def store_of(task: Any) -> str:
    """Return the store of a task: a Task, or a pathspec. Raises InvalidInputError if it has none."""
    store = _said_by(task).get(STORE)
    if not store:
        raise InvalidInputError(f"the task {getattr(task, 'pathspec', task)} has no checkpoints")
    return str(store)


def of_store(store: str) -> Iterator[Reference]:
    """Yield the references of a store's versions, newest first."""
    return (of_version(store, each) for each in command.versions(store))


def newest_of(store: str, before_attempt: int | None = None) -> Reference | None:
    """Return the reference of a store's newest version that is to be loaded; of attempts before one, if it is given."""
    found = (each for each in of_store(store) if each["latest"] and not _is_later(each, before_attempt))
    return next(found, None)


def of_task(flow: str, run: str, step: str, task: str, before_attempt: int) -> Reference | None:
    """Return the newest version of one task that it had before an attempt."""
    store = _said_by(f"{flow}/{run}/{step}/{task}").get(STORE)
    return newest_of(store, before_attempt) if store else None


def resumed(flow: str, origin: str | None, step: str, place: str) -> Reference | None:
    """Return the newest version of the task in the run that was resumed, or in the one that that resumed, and so on."""
    from metaflow import Run

    for _ in range(_MOST_RUNS):
        if not origin:
            return None
        run = Run(f"{flow}/{origin}", _namespace_check=False)
        found = _in_run(run, step, place)
        if found is not None:
            return found
        origin = _origin(run)
    return None


def earlier(flow: str, run: str, step: str, place: str) -> Reference | None:
    """Return the newest version of the task in the newest other run, of the same user, that has one."""
    return next((found for other in _others(flow, run) if (found := _in_run(other, step, place)) is not None), None)


def elsewhere(task: Any) -> Iterator[Reference]:
    """Yield the versions that a task has in other runs of the same user: of each run the newest first."""
    flow, run, step, _ = str(getattr(task, "pathspec", task)).split("/")
    place = _said_by(task).get(PLACE, "")
    for other in _others(flow, run):
        for _, store in sorted(_stores(other, step, place), reverse=True):
            yield from of_store(store)


def _others(flow: str, run: str) -> Iterator[Any]:
    from metaflow import Flow

    return (other for other in islice(Flow(flow).runs(), _MOST_RUNS) if other.id != run)


def _said_by(task: Any) -> dict[str, str]:
    from metaflow import Task

    found = Task(task, _namespace_check=False) if isinstance(task, str) else task
    return dict(found.metadata_dict)


def _in_run(run: Any, step: str, place: str) -> Reference | None:
    stores = sorted(_stores(run, step, place), reverse=True)
    return next((found for _, store in stores if (found := newest_of(store)) is not None), None)


def _stores(run: Any, step: str, place: str) -> Iterator[tuple[Any, str]]:
    try:
        tasks = list(run[step])
    except KeyError:
        return  # it did not come so far
    for task in tasks:
        metadata = task.metadata_dict
        if metadata.get(PLACE) == place and STORE in metadata:
            yield task.created_at, metadata[STORE]


def _is_later(found: Reference, before_attempt: int | None) -> bool:
    return before_attempt is not None and found["attempt"] is not None and found["attempt"] >= before_attempt


def _origin(run: Any) -> str | None:
    try:
        pathspec = run.origin_pathspec
    except StopIteration:
        return None  # no step of it began
    return str(pathspec).rpartition("/")[2] if pathspec else None
