"""What processes take, as /proc says it: processor time and memory of a process and of all that descend from it."""

import os
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_INTERVAL_S = 0.05
_PROC = Path("/proc")


def tree_of(root: int) -> list[int]:
    """Return a process and its descendants, as far as they live."""
    children: dict[int, list[int]] = {}
    for path in _PROC.glob("[0-9]*"):
        fields = _stat(int(path.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, ())
    return found


def processor_s(root: int) -> float:
    """Return the processor time of a process, its descendants and those of them that ended and were waited for (s)."""
    ticks = 0
    for pid in tree_of(root):
        # utime, stime, cutime, cstime: fields 14 to 17 of proc(5), the first two are cut off
        ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / _TICKS_PER_S


class _Watch(ABC):
    """A context manager that looks at a process and its descendants from time to time, in a thread of its own."""

    interval_s = _INTERVAL_S

    def __init__(self, root: int) -> None:
        self.root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @abstractmethod
    def look(self) -> None:
        """Look once."""

    def _run(self) -> None:
        while not self._done.is_set():
            self.look()
            self._done.wait(self.interval_s)


class MemoryWatch(_Watch):
    """A context manager that looks, 20 times a second, how much memory a process and its descendants have.

    Shared pages count once: what is added up is the proportional set size (Pss of proc_pid_smaps(5)). Pages of the page
    cache that are not mapped are nobody's.
    """

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self.peak_bytes = 0
        """Of all together, at one time."""
        self.peaks_bytes: dict[int, int] = {}
        """Of each process by its pid, not at the same time."""
        self.samples = 0

    def look(self) -> None:
        """Look once."""
        sizes = {pid: pss_bytes(pid) for pid in tree_of(self.root)}
        self.peak_bytes = max(self.peak_bytes, sum(sizes.values()))
        for pid, size in sizes.items():
            self.peaks_bytes[pid] = max(self.peaks_bytes.get(pid, 0), size)
        self.samples += 1


class ProcessorWatch(_Watch):
    """A context manager that notes, 50 times a second, what processor time a process and its descendants have had."""

    interval_s = 0.02

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self.samples: list[tuple[float, float]] = []
        """Wall clock (s since the epoch), and processor time since the process began (s)."""

    def look(self) -> None:
        """Look once."""
        self.samples.append((time.time(), processor_s(self.root)))


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return []


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, its share of what it shares with others; 0 if it has ended."""
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it ended
    return 0
