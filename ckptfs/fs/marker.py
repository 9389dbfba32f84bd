"""The save marker: from the system calls that touch `.save` to exactly one version for each touch.

`touch` alone opens, duplicates, closes, sets times and closes again; a shell's `echo > .save` closes a duplicate before
it writes. Only the last close ends a touch, and the kernel does not say which one is the last before it is over (FLUSH
comes at every close, RELEASE after the last one, when close has returned already). So:

    R1  every close (FLUSH) of a writable handle captures, if anything changed since this touch last captured: tree or
        text
    R2  captures of one touch replace each other under one version number
    R3  the touch ends, and its version goes to the upload process, at RELEASE, at fsync, when another touch captures,
        or LINGER_S after its last capture
    R4  setting times by name is a touch of its own, unless the same process has a touch going on: then it is part of
        that. Programs of other pid namespaces (the kernel gives them no number here) count as one process: a `touch`
        from outside a mount's container would make two versions otherwise
    R5  a touch that was ended by fsync captures again, as a new version, only if it is written to again: the close
        after fsync is part of the same touch, whatever happened to the tree meanwhile

All methods may block while a capture is made, one at a time; waiting for room is done without the lock.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ckptfs.capture.capture import Captured
from ckptfs.errors import NoteTooLargeError
from ckptfs.format.pending import Note
from ckptfs.fs.note import parse_note

NOTE_LIMIT_BYTES = 64 << 10
# 10 s: a program that keeps a duplicate open must not keep its version from becoming durable for ever; a note takes
# less to arrive, unless something computes while it holds the marker open
LINGER_S = 10.0


class Saver(Protocol):
    """What the marker needs of the mount."""

    def has_room(self) -> bool:
        """True if one more version may be pending."""

    def wait_for_room(self) -> None:
        """Return when one more version may be pending. Raises FencedError."""

    def capture(self, note: Note, replace: Captured | None) -> Captured:
        """Capture the live tree."""

    def close(self, captured: Captured) -> None:
        """Hand a version to the upload process."""

    def has_changes(self) -> bool:
        """True if the live tree may differ from the newest capture."""

    def wait_durable(self) -> None:
        """Return when every version captured so far is durable. Raises NotDurableError."""


@dataclass(slots=True, eq=False)
class Touch:
    """One touch: from a writable open to its last close, or one call that sets times."""

    process: int
    """Thread group id of the program, 0 if unknown."""
    text: bytearray = field(default_factory=bytearray)
    captured: Captured | None = None
    captured_text: bytes | None = None
    """The text of its last capture; None before the first."""
    captured_at: float = 0.0
    synced: bool = False
    """Ended by fsync, and not written to since (R5)."""


class SaveMarker:
    """All touches of one mount."""

    def __init__(self, saver: Saver, clock: Callable[[], float] = time.monotonic) -> None:
        self._saver = saver
        self._clock = clock
        self._lock = threading.RLock()
        self._open: list[Touch] = []

    def begin(self, process: int) -> Touch:
        """A program opened the marker for writing."""
        touch = Touch(process)
        with self._lock:
            self._open.append(touch)
        return touch

    def write(self, touch: Touch, data: bytes | memoryview, offset_bytes: int) -> int:
        """A program wrote text. Raises NoteTooLargeError."""
        if offset_bytes + len(data) > NOTE_LIMIT_BYTES:
            raise NoteTooLargeError(f"a note of {offset_bytes + len(data)} bytes was written to the save marker")
        with self._lock:
            touch.text.extend(bytes(max(0, offset_bytes - len(touch.text))))
            touch.text[offset_bytes : offset_bytes + len(data)] = data
            touch.synced = False
        return len(data)

    def flush(self, touch: Touch) -> None:
        """A descriptor of the touch is being closed (R1). Raises what a capture raises."""
        self._settle(touch)

    def release(self, touch: Touch) -> None:
        """The last descriptor is closed (R3)."""
        with self._lock:
            self._end(touch)
            if touch in self._open:
                self._open.remove(touch)

    def set_times(self, process: int) -> None:
        """A program set the marker's times by name (R4)."""
        with self._lock:
            own = next((touch for touch in self._open if touch.process == process), None)
        if own is not None and not own.synced:
            self._settle(own)
        else:
            self.put(b"")

    def put(self, text: bytes) -> None:
        """A whole touch in one call, with its text. Raises NoteTooLargeError and what a capture raises."""
        touch = Touch(0)
        self.write(touch, text, 0)
        self._settle(touch, ends=True)

    def sync(self, touch: Touch | None) -> None:
        """fsync: end a touch that goes on, then return when all captured versions are durable."""
        if touch is not None:
            self._settle(touch)
        with self._lock:
            if touch is not None:
                touch.synced = True
            self._end_all()
        self._saver.wait_durable()

    def end_lingering(self) -> None:
        """End touches that captured long ago; called now and then."""
        with self._lock:
            for touch in self._open:
                if touch.captured is not None and self._clock() - touch.captured_at > LINGER_S:
                    self._end(touch)

    def end_all(self) -> None:
        """End every touch: the mount is going away."""
        with self._lock:
            self._end_all()

    def _settle(self, touch: Touch, *, ends: bool = False) -> None:
        """Capture if there is anything to; called without the lock, for nobody else is to wait for room with it."""
        while True:
            with self._lock:
                if not self._is_due(touch):
                    return
                for other in self._open:
                    if other is not touch:
                        self._end(other)
                if touch.captured is not None or self._saver.has_room():
                    self._capture(touch)
                    if ends:
                        self._end(touch)
                    return
            self._saver.wait_for_room()

    def _is_due(self, touch: Touch) -> bool:
        return not touch.synced and (bytes(touch.text) != touch.captured_text or self._saver.has_changes())

    def _capture(self, touch: Touch) -> None:
        text = bytes(touch.text)
        touch.captured = self._saver.capture(parse_note(text), touch.captured)
        touch.captured_text = text
        touch.captured_at = self._clock()

    def _end(self, touch: Touch) -> None:
        if touch.captured is not None:
            self._saver.close(touch.captured)
            touch.captured = None

    def _end_all(self) -> None:
        for touch in self._open:
            self._end(touch)
