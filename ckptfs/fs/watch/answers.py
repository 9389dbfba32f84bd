"""What a watch says of the touches that it has seen: the text of `.save.status`."""

import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from ckptfs.fs.control import version_object
from ckptfs.fs.uploads import Uploads
from ckptfs.fs.version_state import VersionState

# a program that waits looks every few milliseconds; 64 touches take longer than that
_KEPT = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of some touches."""

    number: int
    """Counts up while the watch runs."""
    touched_ns: int
    """Those whose ctime is not later (in the root), and that no earlier answer is for."""
    version: int | None
    """What they made; None if nothing was saved."""
    torn: int = 0
    """Files of it that may hold a mixture of moments."""
    error: str | None = None
    hint: str | None = None
    errno: int = 0
    """What closing the marker of a mount would have failed with."""


class Answers:
    """The answers of one watch.

    Args:
        uploads: Which versions are durable.
        epoch: The writer's: another watch has another.
    """

    def __init__(self, uploads: Uploads, epoch: int) -> None:
        self._epoch = epoch
        self._uploads = uploads
        self._answers: deque[Answer] = deque(maxlen=_KEPT)
        self._count = 0

    def saved(self, touched_ns: int, version: int, torn: int) -> None:
        """Touches made a version."""
        self._add(Answer(self._count + 1, touched_ns, version, torn))

    def refused(self, touched_ns: int, error: str, hint: str | None, number: int) -> None:
        """Touches made none."""
        self._add(Answer(self._count + 1, touched_ns, None, error=error, hint=hint, errno=number))

    def _add(self, answer: Answer) -> None:
        self._count = answer.number
        self._answers.append(answer)

    def document(self) -> dict[str, Any]:
        """Return what `.save.status` says; docs/WATCH.md describes it."""
        newest = self._uploads.newest() or VersionState(0, "none")
        waiting = self._uploads.waiting()
        failed = next((state for state in waiting if state.state == "failed"), None)
        return {
            **version_object(newest),
            "durable": waiting[0].version - 1 if waiting else newest.version,
            "failed": {"version": failed.version, "error": failed.error} if failed is not None else None,
            "fenced": self._uploads.fenced,
            "epoch": self._epoch,
            "answers": [asdict(answer) for answer in list(self._answers)],
        }

    def text(self) -> bytes:
        """Return the document as a line of JSON."""
        return json.dumps(self.document(), ensure_ascii=False).encode() + b"\n"
