"""Reading small files whole, in 5 system calls where Path.read_bytes takes 9, and in two thirds of its time.

It is for what is read at every save: descriptions of pending versions, what /proc says of a program.
"""

import os

# what /proc has of a process is shorter, and says that it has no size
_LEAST_BYTES = 8 << 10


def read_small(path: os.PathLike[str] | str) -> bytes:
    """Return all bytes of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        most_bytes = max(_LEAST_BYTES, os.fstat(fd).st_size + 1)
        pieces = []
        while piece := os.read(fd, most_bytes):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)
