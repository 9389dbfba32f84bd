"""The log file of a mount: bounded, and written to by several processes.

The server, its keeper and the upload process each append to it, and all have it as their standard error, for what is
not a log line. Whoever finds it full renames it; the others see that its name leads elsewhere, and follow.

Rules:
    L1  lines are appended by one write each, so that they do not mix
    L2  who renames holds a lock of the file that is renamed, and the name still leads to it; who does not get the lock
        does not wait: it writes on, and the file is a little longer
"""

import fcntl
import io
import logging
import logging.handlers
import os
from pathlib import Path

# 4 files of 4 MiB: weeks of a mount that is well, and the last hours of one that says much
MAX_FILE_BYTES = 4 << 20
OLDER_FILES = 3


def log_to(path: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Send standard error, and the log lines that go there, to a file. Raises OSError."""
    root = logging.getLogger()
    if any(isinstance(handler, _LogFile) for handler in root.handlers):
        return  # forked from one that did
    # the journal's lines stay there
    handlers = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    if not handlers:
        os.close(_open_as_stderr(os.fspath(path)))
    for handler in handlers:
        file = _LogFile(path, max_file_bytes)
        file.setFormatter(handler.formatter)
        root.removeHandler(handler)
        root.addHandler(file)


def is_logged_to(path: Path) -> bool:
    """Tell whether standard error leads to a log file, or what was it: whoever started this process logs there."""
    # the newest first: one that is renamed meanwhile is met again
    names = [path, *(path.with_name(f"{path.name}.{age}") for age in range(1, OLDER_FILES + 1))]
    return any(map(_is_stderr, names))


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), os.stat(path))
    except OSError:
        return False


class _LogFile(logging.handlers.RotatingFileHandler):
    """One process's end of it."""

    def __init__(self, path: Path, max_file_bytes: int) -> None:
        super().__init__(path, maxBytes=max_file_bytes, backupCount=OLDER_FILES)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line to the file that has the name now, or to a new one if that has no room for it."""
        # the library's makes the line twice, and looks at the name four times: a twentieth of a save
        try:
            line, stream = self.format(record) + self.terminator, self._current()
            if os.fstat(stream.fileno()).st_size + len(line) >= self.maxBytes:
                self.doRollover()
                stream = self._current()
            stream.write(line)
            self.flush()
        except Exception:
            self.handleError(record)

    def doRollover(self) -> None:  # noqa: N802, the standard library's name
        """Begin a new file, unless another process is about to, or has."""
        if self.stream is None:
            return
        # a lock of its own: the descriptor's would be shared with all processes that inherited it
        lock_fd = os.open(f"/proc/self/fd/{self.stream.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current():
                super().doRollover()
        except BlockingIOError:
            pass  # another process is about to
        finally:
            os.close(lock_fd)

    def _current(self) -> io.TextIOWrapper:
        """Return the file that has the name now, opened."""
        if self.stream is None or not self._is_current():
            if self.stream is not None:
                self.stream.close()
            self.stream = self._open()
        return self.stream

    def _is_current(self) -> bool:
        try:
            stream = self.stream
            return stream is not None and os.path.samestat(os.fstat(stream.fileno()), os.stat(self.baseFilename))
        except FileNotFoundError:
            return False

    def _open(self) -> io.TextIOWrapper:
        fd = _open_as_stderr(self.baseFilename)
        # as standard error does with what is no UTF-8
        return open(fd, "a", encoding="utf-8", errors="backslashreplace")


def _open_as_stderr(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 2)
    return fd
