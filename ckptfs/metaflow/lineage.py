"""What a task may begin with when its own store has nothing: found by what Metaflow knows of other tasks (F2).

Every task says in its metadata which store it has, and which of its step's tasks it is: the task of a resumed run has
another id, but the same place in the foreach, or the same rank.
"""

from collections.abc import Iterator
from typing import Any

from ckptfs.metaflow import command
from ckptfs.metaflow.reference import Reference, reference

STORE, PLACE = "ckptfs-store", "ckptfs-place"

# a chain of resumed runs, or of runs that never saved; beyond it nobody can tell any more what a version has to do
# with the task
_MOST_RUNS = 50


def newest_of(store: str, before_attempt: int | None = None) -> Reference | None:
    """Return the reference of a store's newest version that is to be loaded; of attempts before one, if it is given."""
    for each in command.versions(store):
        note = each["note"]
        if isinstance(note, dict) and note.get("latest") and not _is_later(note, before_attempt):
            return reference(store, each["version"], note, each["bytes"])
    return None


def of_task(flow: str, run: str, step: str, task: str, before_attempt: int) -> Reference | None:
    """Return the newest version of one task that it had before an attempt."""
    from metaflow import Task

    store = Task(f"{flow}/{run}/{step}/{task}", _namespace_check=False).metadata_dict.get(STORE)
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
    from metaflow import Flow

    for number, other in enumerate(Flow(flow).runs()):
        if number > _MOST_RUNS:
            return None
        found = _in_run(other, step, place) if other.id != run else None
        if found is not None:
            return found
    return None


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


def _is_later(note: dict[str, Any], before_attempt: int | None) -> bool:
    return before_attempt is not None and note.get("attempt", 0) >= before_attempt


def _origin(run: Any) -> str | None:
    try:
        pathspec = run.origin_pathspec
    except StopIteration:
        return None  # no step of it began
    return str(pathspec).rpartition("/")[2] if pathspec else None
