"""Encoding chunks, in processes of their own or in the calling thread.

A chunk is read into a slot, memory that this process shares with its encoders; what crosses the pipe is a slot's number
and the place of a base. Threads would do with less, but an encoded MiB is some fifty short calls into numpy, each of
which needs Python's lock: two threads encode 1.4 times as fast as one, two processes 1.9 times.

Rules:
    E1  encoders are forked before this process has threads, holds locks or opens connections; they have nothing open
        but their pipe, and end with it or with this process
    E2  an encoder that dies, or cannot be started, costs time and nothing else: its chunk is encoded here
"""

import ctypes
import logging
import mmap
import os
import queue
import signal
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple

from ckptfs.cache.anchors import AnchorPlace, read_anchor
from ckptfs.codec.frame import base_digest, encode_frame_into
from ckptfs.errors import ChunkCorruptError, CorruptObjectError
from ckptfs.format.pack import MAX_FRAME_EXTRA_BYTES

_PR_SET_PDEATHSIG = 1
# 4 MiB in all, a process
_SMALL_BASE_BYTES, _RECENT_BASES = 256 << 10, 16

log = logging.getLogger(__name__)


class Slot(NamedTuple):
    """Room for one chunk and its frame."""

    number: int
    plain: memoryview
    """Of `SlotPool.size_bytes`."""
    frame: memoryview


class SlotPool:
    """A fixed number of slots, shared by threads and with processes forked later: whoever wants one more waits.

    Args:
        count: How many.
        size_bytes: The longest chunk.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.count = count
        room = -(-(2 * size_bytes + MAX_FRAME_EXTRA_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        # shared, and pages that nobody touches take no memory
        view = memoryview(mmap.mmap(-1, count * room))
        self._slots = [
            Slot(number, area[:size_bytes], area[size_bytes:])
            for number, area in enumerate(view[room * number :][:room] for number in range(count))
        ]
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def take(self) -> Slot:
        """Return a slot with any content, waiting until one is free."""
        return self._free.get()

    def give(self, slot: Slot) -> None:
        """Give a slot back."""
        self._free.put(slot)


class Effort(IntEnum):
    """How much processor time a chunk may take."""

    FRESH = 1
    """Bases are not looked at: half the time, and for floats that train some 10 % more bytes."""
    DENSE = 2
    """Whatever makes it smallest."""


class Work(NamedTuple):
    """A chunk to be encoded."""

    size_bytes: int
    """Of the plain bytes, at the beginning of the slot."""
    base: AnchorPlace | None = None
    min_gain: float = 0.0
    """What the base must save, as a share of the chunk's size."""


class Encoded(NamedTuple):
    """What became of it."""

    frame_bytes: int
    """At the beginning of the slot's `frame`."""
    uses_base: bool
    base_error: str | None
    """Why the base could not be read."""


class EncoderPool:
    """Encoders and their slots. `encode` is called by as many threads at once as there are encoders.

    Args:
        count: How many.
        chunk_bytes: The longest chunk.
        forked: As processes (E1); otherwise each caller encodes in its own thread.
    """

    def __init__(self, count: int = 2, *, chunk_bytes: int, forked: bool = False) -> None:
        self.count = count
        # two more than can be at work at once, so that reading and packing go on meanwhile
        self.slots = SlotPool(count + 3, chunk_bytes)
        self._idle: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        connections: list[Connection] = []
        try:
            while forked and len(connections) < count:
                connections.append(_fork_encoder(self.slots, connections))
        except OSError as error:
            log.warning("encoding goes on with %d of %d encoders: %s", len(connections), count, error.strerror)
        for number in range(count):
            self._idle.put(connections[number] if number < len(connections) else None)

    def encode(self, slot: Slot, work: Work) -> Encoded:
        """Encode the chunk in a slot.

        Raises:
            CorruptObjectError: The frame did not decode to the chunk.
        """
        encoder = self._idle.get()
        try:
            if encoder is not None:
                try:
                    encoder.send((slot.number, work))
                    answer: Encoded | str = encoder.recv()
                except (OSError, EOFError):
                    log.warning("an encoder has died; encoding goes on without it")
                    encoder.close()
                    encoder = None
                else:
                    if isinstance(answer, str):
                        raise CorruptObjectError(answer)
                    return answer
            return encode(slot, work)
        finally:
            self._idle.put(encoder)

    def close(self) -> None:
        """End the encoders. Nobody is encoding."""
        for _ in range(self.count):
            encoder = self._idle.get()
            if encoder is not None:
                encoder.close()
            self._idle.put(None)


class _RecentBases:
    """Small bases that were used lately, by what they hold: at every step a file that is small has the same one."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, place: AnchorPlace) -> bytes:
        """Return a base's bytes. Raises as read_anchor."""
        with self._lock:
            found = self._found.pop(place.digest, None)
        plain = found if found is not None else read_anchor(place)
        if len(plain) <= _SMALL_BASE_BYTES:
            with self._lock:
                self._found[place.digest] = plain
                if len(self._found) > _RECENT_BASES:
                    self._found.popitem(last=False)
        return plain


_recent_bases = _RecentBases()


def encode(slot: Slot, work: Work) -> Encoded:
    """Encode the chunk in a slot, here. Raises CorruptObjectError: as `EncoderPool.encode`."""
    base = error = None
    if work.base is not None:
        try:
            base = (work.base.digest, _recent_bases.read(work.base))
        except (OSError, ChunkCorruptError) as cause:
            error = str(cause)
    size = encode_frame_into(slot.frame, slot.plain[: work.size_bytes], base=base, min_gain=work.min_gain)
    return Encoded(size, base_digest(slot.frame[:size]) is not None, error)


def _fork_encoder(slots: SlotPool, others: Sequence[Connection]) -> Connection:
    ours, theirs = Pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        try:
            ours.close()
            for other in others:
                other.close()
            _be_encoder(slots, theirs, parent)
        except (EOFError, ConnectionError):
            os._exit(0)  # who asked has ended, or was killed before it had read the answer
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    return ours


def _be_encoder(slots: SlotPool, work: Connection, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before it could be noticed
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    while True:
        number, request = work.recv()
        try:
            work.send(encode(slots[number], request))
        except CorruptObjectError as error:
            work.send(error.fact)
