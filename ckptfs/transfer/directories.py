"""Walking a real directory tree by manifest paths without ever following a symlink.

Every step is an openat(2) with O_NOFOLLOW relative to the directory before it, so that neither a hostile tree (`..`, a
symlink that the tree itself brought) nor one that somebody swaps in during the walk leads outside the root.
"""

import os

from ckptfs.errors import CorruptObjectError
from ckptfs.transfer.owned import open_owned

# 64: deep enough that sorted paths seldom walk twice, and far below the usual limit of 1024 descriptors
_KEPT_DIRECTORIES = 64


def split_path(path: bytes) -> list[bytes]:
    """Return the components of a manifest path; of the root, none.

    Raises:
        CorruptObjectError: A component is empty, `.`, `..` or holds a NUL.
    """
    if not path:
        return []
    names = path.split(b"/")
    if any(name in (b"", b".", b"..") or b"\0" in name for name in names):
        raise CorruptObjectError(f"the path {os.fsdecode(path)!r} is not one of a tree")
    return names


class DirectoryWalker:
    """Opens directories below a root, keeping those of the last path open: neighbours cost one step.

    Not safe for use by several threads at once.

    Args:
        root_fd: An open directory; it is not closed here.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._names: list[bytes] = []
        self._fds: list[int] = []
        """Of each name; -1 for one that was closed to stay below _KEPT_DIRECTORIES."""

    def __enter__(self) -> "DirectoryWalker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: bytes) -> int:
        """Return a descriptor of a directory, valid until the next call.

        Raises:
            OSError: It does not exist, or something on the way is not a directory (a symlink is none).
            CorruptObjectError: It is not a path of a tree.
        """
        names = split_path(path)
        common = 0
        for known, wanted in zip(self._names, names, strict=False):
            if known != wanted:
                break
            common += 1
        self._leave(common)
        if self._fds and self._fds[-1] < 0:
            self._leave(0)
        for name in names[len(self._names) :]:
            fd = open_owned(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fds[-1] if self._fds else self._root_fd)
            self._names.append(name)
            self._fds.append(fd)
            if len(self._fds) > _KEPT_DIRECTORIES:
                self._forget(len(self._fds) - 1 - _KEPT_DIRECTORIES)
        return self._fds[-1] if self._fds else self._root_fd

    def close(self) -> None:
        """Close all but the root."""
        self._leave(0)

    def _leave(self, depth: int) -> None:
        while len(self._names) > depth:
            self._forget(len(self._fds) - 1)
            self._names.pop()
            self._fds.pop()

    def _forget(self, index: int) -> None:
        if self._fds[index] >= 0:
            os.close(self._fds[index])
            self._fds[index] = -1
