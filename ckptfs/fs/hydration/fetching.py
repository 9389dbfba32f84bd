"""The queue of chunks to be fetched: what programs wait for first, then what they will read next, then what nobody has
asked for yet.

A task is one request for a range of a pack, with the chunks in it and the files that they are to be written to. Tasks
claim their chunks when they begin, so a chunk may stand in several: the first one fetches it.
"""

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from ckptfs.errors import CkptfsError, CorruptObjectError
from ckptfs.format.manifest import Chunk
from ckptfs.fs.counters import Counters
from ckptfs.fs.hydration.filling import Filling
from ckptfs.threads import start_thread
from ckptfs.transfer.fetch import Fetcher
from ckptfs.transfer.pack_ranges import ReadGroup, plan_reads

Place = tuple[Filling, int]
"""A chunk of a file, by its index there."""

log = logging.getLogger(__name__)

_THREADS = 8
# 8 MiB: at 100 MB/s of one connection it takes four times as long as its request waits, and 64 MiB are eight of them
_AHEAD_TASK_BYTES = 8 << 20
# 1 MiB read in order: less may be one large read of a program that reads here and there
_ORDER_BYTES = 1 << 20
_FIRST_WINDOW_BYTES = 8 << 20
_LAST_WINDOW_BYTES = 64 << 20
# reads of one program arrive by several threads of ours, out of order by as much as the kernel has in flight
_DISORDER_BYTES = 4 << 20


class Priority(IntEnum):
    """Whose task is next."""

    DEMAND = 0
    """A program waits."""
    AHEAD = 1
    """A program that reads in order will want it."""
    PREFETCH = 2


# Of the threads, as many may be busy with tasks of a priority or a lower one: what comes first finds one that is free
_AT_MOST = {Priority.DEMAND: _THREADS, Priority.AHEAD: _THREADS - 2, Priority.PREFETCH: _THREADS // 2}


@dataclass(slots=True, eq=False)
class _Task:
    places: dict[Chunk, list[Place]]
    priority: Priority
    done: Callable[[], None]


@dataclass(slots=True)
class _Counts:
    waiting: dict[Priority, deque[_Task]] = field(default_factory=lambda: {priority: deque() for priority in Priority})
    running: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))


class FetchQueue:
    """Fetches chunks into files with a few threads, which are started when they are needed.

    Args:
        fetcher: Reads one request at a time, in the thread that asks.
        on_damage: Told of each chunk that the store does not have whole, after those who wait for it.
        explain: Returns the error that says best why one is not there; if it is no CorruptObjectError, it is no damage.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        on_damage: Callable[[Chunk], None] = lambda chunk: None,
        explain: Callable[[Chunk, CorruptObjectError], CkptfsError] = lambda chunk, error: error,
    ) -> None:
        self._fetcher = fetcher
        self._explain = explain
        self._on_damage = on_damage
        self._changed = threading.Condition()
        self._counts = _Counts()
        self._threads = 0
        self._stopping = False
        self.fetched_bytes = 0
        """Plain bytes that came so far."""
        self.counters = Counters()
        """Told of what comes, and of what does not."""
        self.make_room: Callable[[int], bool] = lambda size_bytes: False
        """Called when the disk is full, with the bytes that are needed; returns False if it stays full."""

    def ask(self, places: Iterable[Place], priority: Priority, done: Callable[[], None] = lambda: None) -> int:
        """Have chunks fetched, in as few requests as bring them.

        Args:
            done: Called once for each request, when it is over, by any thread.

        Returns:
            The number of requests.
        """
        by_chunk: dict[Chunk, list[Place]] = {}
        for filling, index in places:
            by_chunk.setdefault(filling.chunks[index], []).append((filling, index))
        tasks = [
            _Task({chunk: by_chunk[chunk] for chunk in _chunks(group) if chunk in by_chunk}, priority, done)
            for group in plan_reads(by_chunk)
        ]
        with self._changed:
            self._counts.waiting[priority].extend(tasks)
            wanted = sum(map(len, self._counts.waiting.values())) + sum(self._counts.running.values())
            while self._threads < min(wanted, _THREADS) and self._add_thread():
                pass
            has_none = self._threads == 0
            self._changed.notify_all()
        if has_none:
            self._work_off()
        return len(tasks)

    def stop(self) -> None:
        """Begin no further task."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _is_demanded(self) -> bool:
        counts = self._counts
        first = (Priority.DEMAND, Priority.AHEAD)
        return any(counts.waiting[priority] or counts.running[priority] for priority in first)

    def _add_thread(self) -> bool:
        """Return False where no more threads may be had (a container's limit): those that there are do it all."""
        if start_thread(self._work, "fetch") is None:
            return False
        self._threads += 1
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                task = self._next()
                while task is None and not self._stopping:
                    self._changed.wait()
                    task = self._next()
                if task is None:
                    self._threads -= 1
                    return
                self._counts.running[task.priority] += 1
            self._do(task)

    def _work_off(self) -> None:
        """Do in the thread that asked what waits: there is no other."""
        while True:
            with self._changed:
                task = self._next()
                if task is None:
                    return
                self._counts.running[task.priority] += 1
            self._do(task)

    def _do(self, task: _Task) -> None:
        try:
            self._run(task)
        except Exception:
            log.exception("a fetch failed")
        finally:
            with self._changed:
                self._counts.running[task.priority] -= 1
                self._changed.notify_all()
            task.done()

    def _next(self) -> _Task | None:
        """Take the next task that may begin."""
        counts = self._counts
        for priority in Priority:
            if priority is Priority.PREFETCH and self._is_demanded():
                return None
            busy = sum(number for other, number in counts.running.items() if other >= priority)
            if counts.waiting[priority] and busy < _AT_MOST[priority]:
                return counts.waiting[priority].popleft()
        return None

    def _run(self, task: _Task) -> None:
        with _Claims() as claims:
            for chunk, places in task.places.items():
                claims.add(chunk, places)
            if claims.places:
                self._fetcher.read_chunks(claims.places, self._deliver_to(claims, task.priority))

    def _deliver_to(self, claims: "_Claims", priority: Priority) -> Callable[[Chunk, bytes | CkptfsError], None]:
        # what nobody has asked for drives nothing out
        make_room = self.make_room if priority is not Priority.PREFETCH else lambda size_bytes: False

        def deliver(chunk: Chunk, result: bytes | CkptfsError) -> None:
            # a base that no file of these has is here only for others
            places = claims.places.pop(chunk, ())
            if isinstance(result, CorruptObjectError):
                result = self._explain(chunk, result)
            if isinstance(result, CkptfsError):
                self.counters.error("corrupt" if isinstance(result, CorruptObjectError) else "fetch")
            elif places:
                self.counters.add(fetched_bytes=len(result))
            for filling, index in places:
                filling.deliver(index, result, make_room)
                if not isinstance(result, CkptfsError):
                    with self._changed:
                        self.fetched_bytes += len(result)
            if isinstance(result, CorruptObjectError):
                self._on_damage(chunk)

        return deliver


def _chunks(group: ReadGroup) -> Iterator[Chunk]:
    """Yield all chunks that a group brings; what others are encoded against may be wanted, too."""
    for span in (*((group.bases,) if group.bases is not None else ()), *group.ranges):
        yield from span.chunks


class _Claims:
    """The chunks that a task fetches; each is delivered, or fails, whatever happens."""

    def __init__(self) -> None:
        self.places: dict[Chunk, list[Place]] = {}
        self._users: set[Filling] = set()
        self._refused: set[Filling] = set()

    def __enter__(self) -> "_Claims":
        return self

    def add(self, chunk: Chunk, places: list[Place]) -> None:
        claimed = [place for place in places if self._uses(place[0]) and place[0].claim(place[1])]
        if claimed:
            self.places[chunk] = claimed

    def _uses(self, filling: Filling) -> bool:
        if filling in self._users:
            return True
        if filling in self._refused or not filling.join():
            self._refused.add(filling)  # nobody wants it any more
            return False
        self._users.add(filling)
        return True

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for places in self.places.values():
            for filling, index in places:
                filling.fail(CkptfsError(f"it could not be fetched: {error}"), index)
        for filling in self._users:
            filling.leave()


class Reader:
    """One open file that is being filled, as one who reads it: what it reads in order is fetched ahead.

    Args:
        filling: The file; joined already, and left by close().
        wanted: Called when something has to be fetched.
    """

    def __init__(self, filling: Filling, queue: FetchQueue, wanted: Callable[[], None] = lambda: None) -> None:
        self.filling = filling
        self._queue = queue
        self._wanted = wanted
        self._next_bytes = 0
        """Where a read in order begins."""
        self._run_bytes = 0
        """How much has been read in order."""
        self._ahead_bytes = 0
        """How far it has been asked for."""
        self._lock = threading.Lock()

    def require(self, start_bytes: int, end_bytes: int) -> None:
        """Return when a range is on local disk. Errors as of Filling.wait."""
        if self.filling.is_filled:
            return
        try:
            self._require(start_bytes, end_bytes)
        except CkptfsError as error:
            if error.errno != errno.ENOSPC:
                raise
            # it may have been fetched ahead, which drives nothing out
            self._require(start_bytes, end_bytes)

    def _require(self, start_bytes: int, end_bytes: int) -> None:
        filling = self.filling
        errors = filling.errors
        if not filling.is_present(start_bytes, end_bytes):
            self._wanted()
            self._queue.ask(((filling, index) for index in filling.missing(start_bytes, end_bytes)), Priority.DEMAND)
        for first, last in self._read_ahead(start_bytes, end_bytes):
            self._queue.ask(((filling, index) for index in filling.missing(first, last)), Priority.AHEAD)
        filling.read_end_bytes = end_bytes
        if not filling.is_present(start_bytes, end_bytes):
            filling.wait(start_bytes, end_bytes, errors)

    def require_all(self) -> None:
        """Return when the file is an ordinary one. Errors as of Filling.wait."""
        filling = self.filling
        errors = filling.errors
        self._wanted()
        # who wants all of a large file does not keep others waiting who want a little
        self._queue.ask(((filling, index) for index in filling.missing()), Priority.AHEAD)
        filling.wait_finished(errors)

    def close(self) -> None:
        """Nobody reads here any more."""
        self.filling.leave()

    def _read_ahead(self, start_bytes: int, end_bytes: int) -> list[tuple[int, int]]:
        """Return the ranges to be asked for now that one is read.

        The window is twice what was read in order, so it doubles; it is asked for anew when half of it is used up.
        """
        with self._lock:
            if not self._next_bytes - _DISORDER_BYTES <= start_bytes <= self._next_bytes:
                self._run_bytes = 0
                self._next_bytes = self._ahead_bytes = end_bytes
                return []
            self._run_bytes += max(0, end_bytes - self._next_bytes)
            self._next_bytes = max(self._next_bytes, end_bytes)
            if self._run_bytes < _ORDER_BYTES:
                return []
            window = min(max(_FIRST_WINDOW_BYTES, 2 * self._run_bytes), _LAST_WINDOW_BYTES)
            start = max(self._ahead_bytes, self._next_bytes)
            if start - self._next_bytes > window // 2:
                return []
            self._ahead_bytes = min(self._next_bytes + window, self.filling.entry.size_bytes)
            return list(_slices(start, self._ahead_bytes))


def _slices(start_bytes: int, end_bytes: int) -> Iterator[tuple[int, int]]:
    while start_bytes < end_bytes:
        yield start_bytes, min(start_bytes + _AHEAD_TASK_BYTES, end_bytes)
        start_bytes += _AHEAD_TASK_BYTES
