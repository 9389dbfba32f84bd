"""What the kernel does not say in a request: which system call the program is in, and to which process a thread
belongs.

The program sleeps in its system call while we answer, so /proc/<tid>/syscall tells it exactly. Where it may not be read
(another pid namespace, a security module), the answer is "unknown" and the caller takes the ordinary way.
"""

import os
import platform
import signal
from typing import NamedTuple

from ckptfs.small_files import read_small

# a number and eight hexadecimal ones
_LINE_BYTES = 256
# number: index of the flags argument (asm/unistd.h)
_OPENS = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}.get(platform.machine(), {})
_RENAMES = {"x86_64": {82, 264, 316}, "aarch64": {38, 276}}.get(platform.machine(), set())
_CHOWNS = {"x86_64": {92, 93, 94, 260}, "aarch64": {54, 55}}.get(platform.machine(), set())


def is_exclusive_create(thread: int) -> bool:
    """True if a thread is in open(2) with O_CREAT and O_EXCL: its lookup must not find what it wants to make."""
    call = _system_call(thread)
    if not call or call[0] not in _OPENS:
        return False
    flags = call[1 + _OPENS[call[0]]]
    return flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL


def is_rename(thread: int) -> bool:
    """True if a thread is in one of the rename calls."""
    call = _system_call(thread)
    return bool(call) and call[0] in _RENAMES


def is_chown(thread: int) -> bool:
    """True if a thread is in one of the chown calls."""
    call = _system_call(thread)
    return bool(call) and call[0] in _CHOWNS


def process_of(thread: int) -> int:
    """Return the process id of a thread, 0 if it cannot be known."""
    try:
        # a tenth of the time that reading its status takes; no thread has one but a process's first, of its number
        os.close(os.pidfd_open(thread))
    except OSError:
        return next(iter(_status_numbers(thread, "Tgid:")), 0)
    return thread


def groups_of(thread: int) -> list[int]:
    """Return the supplementary groups of a thread, none if they cannot be known."""
    return _status_numbers(thread, "Groups:")


_STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}


class PendingSignals(NamedTuple):
    """Signals that wait for a thread to come back from its system call."""

    deadly: set[int]
    """Those that no handler catches, and that stop nothing but end it; what is ignored never waits."""
    caught: set[int]


def pending_signals(thread: int) -> PendingSignals | None:
    """Return the signals that wait for a thread, None if they cannot be known."""
    masks: dict[str, int] = {}
    try:
        for line in read_small(f"/proc/{thread}/status").decode().splitlines():
            field, _, value = line.partition(":")
            if field in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt"):
                masks[field] = int(value, 16)
        waiting = (masks["SigPnd"] | masks["ShdPnd"]) & ~masks["SigBlk"]
        return PendingSignals(_members(waiting & ~masks["SigCgt"]) - _STOPPING, _members(waiting & masks["SigCgt"]))
    except (OSError, ValueError, KeyError):
        return None


def _members(mask: int) -> set[int]:
    return {bit + 1 for bit in range(mask.bit_length()) if mask >> bit & 1}


def _status_numbers(thread: int, field: str) -> list[int]:
    try:
        for line in read_small(f"/proc/{thread}/status").decode().splitlines():
            if line.startswith(field):
                return [int(word) for word in line.split()[1:]]
    except (OSError, ValueError):
        pass  # it has ended, or is not of our pid namespace
    return []


def _system_call(thread: int) -> list[int]:
    """Return number and arguments of a sleeping thread's system call; nothing if unknown."""
    if thread <= 0:
        return []
    try:
        fd = os.open(f"/proc/{thread}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        try:
            words = os.read(fd, _LINE_BYTES).split()
        finally:
            os.close(fd)
        return [int(words[0]), *(int(word, 16) for word in words[1:7])]
    except (OSError, ValueError, IndexError):
        return []
