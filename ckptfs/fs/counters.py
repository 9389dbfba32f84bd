"""What a mount process has done since it began: numbers that only grow, for `.status` and who draws curves of them."""

import threading
from collections import Counter
from typing import Any

_FIELDS = (
    "saves",  # captured versions
    "save_s",  # from the touch that captures to its return
    "stall_s",  # of that, while no operation could go on
    "captured_bytes",  # of all files of those versions
    "changed_bytes",  # of the files that had changed
    "durable_versions",
    "durable_bytes",  # of all their files
    "new_bytes",  # content that the version before had not, before it was compressed
    "uploaded_bytes",  # of packs and manifests
    "fetched_bytes",  # content that came from the store, decompressed
)
KINDS = ("store", "upload_process", "version", "fenced", "fetch", "corrupt")
"""Of errors; those of requests come with their errno: `request_EIO`."""
_REQUESTS: Counter[str] = Counter()
_REQUESTS_LOCK = threading.Lock()


class Counters:
    """The numbers of one mount; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, float] = dict.fromkeys(_FIELDS, 0)
        self._errors: Counter[str] = Counter()

    def add(self, **amounts: float) -> None:
        """Add to some of them. Raises KeyError: There is no such number."""
        with self._lock:
            for name, amount in amounts.items():
                self._numbers[name] = self._numbers[name] + amount

    def error(self, kind: str) -> None:
        """Count an error, of one of the KINDS."""
        with self._lock:
            self._errors[kind] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return all, for JSON; of the requests of programs, those that failed for a reason of ours."""
        with self._lock:
            numbers = {name: round(number, 6) for name, number in self._numbers.items()}
            errors = dict(self._errors)
        with _REQUESTS_LOCK:
            errors |= {f"request_{name}": number for name, number in _REQUESTS.items()}
        return numbers | {"errors": errors}


def count_failed_request(errno_name: str) -> None:
    """A request of a program failed, and not because of what it asked for; of the process, which serves one mount."""
    with _REQUESTS_LOCK:
        _REQUESTS[errno_name] += 1
