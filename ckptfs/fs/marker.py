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
    R6  before another touch ends one that has captured (R3), that one gets GRACE_S to end by itself: programs that save
        at the same moment make one version each
    R7  copying a file to the marker (Python's shutil.copy2 and move) ends with setting the source's times by name,
        after the close: a time older than the open of a touch that the same process has just closed, with nothing
        changed since, is part of that touch
    R8  a touch whose text grows over the limit makes no version: what it captured is withdrawn, and its closes fail

All methods may block while a capture is made, one at a time; waiting for room is done without the lock.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ckptfs.capture.capture import Captured
from ckptfs.errors import NoteTooLargeError
from ckptfs.format.note import Note
from ckptfs.fs.note import parse_note

NOTE_LIMIT_BYTES = 64 << 10
# 10 s: a program that keeps a duplicate open must not keep its version from becoming durable for ever; a note takes
# less to arrive, unless something computes while it holds the marker open
LINGER_S = 10.0
# 0.5 s: `touch` and `echo > .save` take 2 ms from the first close to the last, 50 ms on a busy machine
GRACE_S = 0.5
# 2 s: shutil sets times right after the close
_TAIL_S = 2.0


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

    def withdraw(self, captured: Captured) -> None:
        """Undo the newest capture, whose touch goes on."""

    def wait_durable(self) -> None:
        """Return when every version captured so far is durable. Raises NotDurableError."""


@dataclass(slots=True, eq=False)
class Touch:
    """One touch: from a writable open to its last close, or one call that sets times."""

    process: int
    """Thread group id of the program, 0 if unknown."""
    appends: bool = False
    """Opened with O_APPEND: the offsets that the kernel gives count from the end of what reading the marker shows."""
    began_ns: int = 0
    """Wall clock."""
    text: bytearray = field(default_factory=bytearray)
    captured: Captured | None = None
    """Its version, while the touch goes on."""
    saved: Captured | None = None
    """Its version, also when the touch has ended."""
    captured_text: bytes | None = None
    """The text of its last capture; None before the first."""
    first_captured_at: float = 0.0
    captured_at: float = 0.0
    synced: bool = False
    """Ended by fsync, and not written to since (R5)."""
    refused: bool = False
    """Its text was too long (R8)."""


class SaveMarker:
    """All touches of one mount."""

    def __init__(self, saver: Saver, clock: Callable[[], float] = time.monotonic) -> None:
        self._saver = saver
        self._clock = clock
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        """Told whenever a touch has ended."""
        self._open: list[Touch] = []
        self._closed: dict[int, tuple[int, float]] = {}
        """Process to the begin (wall clock) and the end of its last touch, for R7."""

    def begin(self, process: int, *, appends: bool = False) -> Touch:
        """A program opened the marker for writing."""
        touch = Touch(process, appends, time.time_ns())
        with self._lock:
            self._open.append(touch)
        return touch

    def go_on(self, touch: Touch) -> Touch:
        """A touch that began before this process did goes on; what it captured has been ended (as R3 has it)."""
        with self._lock:
            self._open.append(touch)
        return touch

    def write(self, touch: Touch, data: bytes | memoryview, offset_bytes: int) -> int:
        """A program wrote text. Raises NoteTooLargeError."""
        with self._lock:
            start = len(touch.text) if touch.appends else offset_bytes
            self._check_size(touch, start + len(data))
            touch.text.extend(bytes(max(0, start - len(touch.text))))
            touch.text[start : start + len(data)] = data
            touch.synced = False
        return len(data)

    def truncate(self, touch: Touch, size_bytes: int) -> None:
        """A program set the size of the text. Raises NoteTooLargeError."""
        with self._lock:
            self._check_size(touch, size_bytes)
            del touch.text[size_bytes:]
            touch.text.extend(bytes(size_bytes - len(touch.text)))

    def flush(self, touch: Touch) -> None:
        """A descriptor of the touch is being closed (R1). Raises what a capture raises."""
        self._settle(touch)

    def release(self, touch: Touch) -> None:
        """The last descriptor is closed (R3)."""
        with self._lock:
            self._end(touch)
            if touch in self._open:
                self._open.remove(touch)
            now_s = self._clock()
            self._closed = {who: last for who, last in self._closed.items() if now_s - last[1] < _TAIL_S}
            if touch.process and touch.captured_text is not None:
                self._closed[touch.process] = (touch.began_ns, now_s)

    def set_times(self, process: int, mtime_ns: int | None = None) -> None:
        """A program set the marker's times by name (R4, R7); mtime_ns is None if the mtime is to stay."""
        with self._lock:
            own = next((touch for touch in self._open if touch.process == process), None)
        if own is not None and not own.synced:
            self._settle(own)
        elif not self._is_tail(process, mtime_ns):
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
                self._end(touch)
                touch.synced = True
            self._end_others(touch)
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
            for touch in self._open:
                self._end(touch)

    def _check_size(self, touch: Touch, size_bytes: int) -> None:
        if size_bytes > NOTE_LIMIT_BYTES:
            touch.refused = True
            if touch.captured is not None:
                self._saver.withdraw(touch.captured)
                touch.captured = touch.saved = None
            raise NoteTooLargeError(f"a note of {size_bytes} bytes was written to the save marker")

    def _settle(self, touch: Touch, *, ends: bool = False) -> None:
        """Capture if there is anything to; called without the lock, for nobody else is to wait for room with it."""
        while True:
            with self._lock:
                if touch.refused:
                    raise NoteTooLargeError("the note written to the save marker was too long, so nothing was saved")
                if not self._is_due(touch):
                    return
                self._end_others(touch)
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
        touch.captured = touch.saved = self._saver.capture(parse_note(text), touch.captured)
        touch.captured_at = self._clock()
        if touch.captured_text is None:
            touch.first_captured_at = touch.captured_at
        touch.captured_text = text

    def _is_tail(self, process: int, mtime_ns: int | None) -> bool:
        began_ns, ended_s = self._closed.get(process, (0, 0.0))
        if mtime_ns is None or mtime_ns >= began_ns or self._clock() - ended_s > _TAIL_S:
            return False
        return not self._saver.has_changes()

    def _end(self, touch: Touch) -> None:
        if touch.captured is not None:
            self._saver.close(touch.captured)
            touch.captured = None
            self._ended.notify_all()

    def _end_others(self, touch: Touch | None) -> None:
        """End all touches but one, those of other processes when they had time to end by themselves (R6)."""

        def others() -> list[Touch]:
            return [other for other in self._open if other is not touch and other.captured is not None]

        process = touch.process if touch is not None else 0
        while waited_for := [other for other in others() if not process or other.process != process]:
            left_s = max(other.first_captured_at for other in waited_for) + GRACE_S - self._clock()
            if left_s <= 0:
                break
            self._ended.wait(left_s)
        for other in others():
            if not other.refused and bytes(other.text) != other.captured_text:
                self._capture(other)  # its text so far
            self._end(other)
