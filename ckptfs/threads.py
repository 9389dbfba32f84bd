"""Threads where no more may be had: a container, or a user, may be at a limit (pids.max, RLIMIT_NPROC).

What is asked for by name must not end with that: who can go on with the threads that there are asks by `start_thread`.
Elsewhere Python's RuntimeError comes up to a process's door, which asks `is_no_thread`.
"""

import threading
from collections.abc import Callable

from ckptfs.errors import ExhaustedError

NO_THREAD = "no more threads may be had"
# CPython's words in Modules/_threadmodule.c; the exception has no class or number of its own
_PYTHONS_NO_THREAD = "can't start new thread"


def start_thread(work: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a thread that the end of the process does not wait for. Returns None if none may be had now."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def require_thread(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread as `start_thread` does. Raises ExhaustedError: none may be had now."""
    thread = start_thread(work, name)
    if thread is None:
        raise ExhaustedError(NO_THREAD)
    return thread


def is_no_thread(error: BaseException) -> bool:
    """True if this is how Python says that no thread may be had."""
    return isinstance(error, RuntimeError) and error.args == (_PYTHONS_NO_THREAD,)
