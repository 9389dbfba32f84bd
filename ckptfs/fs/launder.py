"""Laundering: bringing pages that programs changed through shared mappings from the kernel's cache into the live files.

A store into a MAP_SHARED mapping dirties the kernel's page cache of the mount and reaches us as a WRITE only later.
fsync on any descriptor of the file brings it at once; but a process that serves a FUSE mount must never enter it (if it
hangs there, not even SIGKILL ends it), so a child process of one thread does that, and is killed when it takes too
long.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time

# 10 s: writing back 24 GiB of dirty pages at 2.5 GB/s
_TIMEOUT_S = 10.0


class Launderer:
    """Flushes files of one mount from outside.

    Args:
        mountpoint: Where the mount is.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def flush(self, path: bytes, ino: int) -> bool:
        """Return True when every page of a file that was dirty at the call is in its live file."""
        with self._lock:
            process = self._running()
            if process is None or process.stdin is None or process.stdout is None:
                return False
            try:
                process.stdin.write(path.hex().encode() + b"\n")
                process.stdin.flush()
                answer = _read_line(process.stdout.fileno(), time.monotonic() + _TIMEOUT_S)
            except OSError:
                answer = b""
            if not answer:
                self._kill()
            return answer == b"ok"

    @property
    def pid(self) -> int:
        """The child process, 0 if there is none."""
        process = self._process
        return process.pid if process is not None else 0

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._kill()

    def _running(self) -> subprocess.Popen[bytes] | None:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-I", "-S", __file__, self._mountpoint]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        continue  # an unsent request for a dead process
            # not waited for: it may hang inside the mount until the mount ends
            try:
                threading.Thread(target=process.wait, daemon=True).start()
            except RuntimeError:
                pass  # no more threads may be had now: Popen looks after it when the next one starts


def _read_line(fd: int, deadline_s: float) -> bytes:
    """Return a line without its end, or nothing if it does not come in time."""
    line = b""
    # select(2) takes no descriptor over 1023, and a thousand files may be open
    answer = select.poll()
    answer.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        piece = os.read(fd, 64) if answer.poll(1000 * max(0.0, deadline_s - time.monotonic())) else b""
        if not piece:
            return b""
        line += piece
    return line[:-1]


def serve(mountpoint: str) -> None:
    """The child: fsync each file named in hexadecimal on standard input, and answer `ok` or `failed`."""
    for line in sys.stdin.buffer:
        try:
            _flush(mountpoint, bytes.fromhex(line.decode()))
            answer = b"ok\n"
        except FileNotFoundError:
            answer = b"ok\n"  # it has no name any more, so no version will hold it
        except (OSError, ValueError):
            answer = b"failed\n"
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _flush(mountpoint: str, path: bytes) -> None:
    # open for no longer than it takes: umount(2) refuses while anybody has anything open in the mount
    root_fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    finally:
        os.close(root_fd)


if __name__ == "__main__":
    serve(sys.argv[1])
