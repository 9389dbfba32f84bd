"""What libfuse and fusermount say on standard error until the mount is there: the only place where they say why."""

import os

_MOST_SAID_BYTES = 4096


class Heard:
    """Listens from when it is made."""

    def __init__(self) -> None:
        self._stderr_fd = os.dup(2)
        self._said_fd = os.memfd_create("stderr")
        os.dup2(self._said_fd, 2)

    def stop(self) -> bytes:
        """Give standard error back; return what was said, once."""
        if self._stderr_fd < 0:
            return b""
        os.dup2(self._stderr_fd, 2)
        said = os.pread(self._said_fd, _MOST_SAID_BYTES, 0)
        os.close(self._said_fd)
        os.close(self._stderr_fd)
        self._stderr_fd = -1
        return said
