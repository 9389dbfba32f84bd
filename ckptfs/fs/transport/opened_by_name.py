"""The open files of libfuse, which knows a file by its name: the kernel has one page cache for all that had it."""

import itertools
from collections.abc import Callable

from ckptfs.fs.handles import FileHandle, Handle, ViewHandle


class OpenedByName:
    """All of them, by the numbers that libfuse is given.

    Args:
        ino_of: Returns the inode that a path leads to now, 0 if it leads to none.
    """

    def __init__(self, ino_of: Callable[[bytes], int]) -> None:
        self._ino_of = ino_of
        self._handles: dict[int, Handle] = {}
        self._opened_as: dict[int, bytes] = {}
        self._stale: dict[bytes, set[int]] = {}
        """Path to the handles of files that had it before the tree was replaced."""
        self._numbers = itertools.count(1)
        self.replaced = 0
        """How often the tree was replaced."""

    def __getitem__(self, number: int) -> Handle:
        return self._handles[number]

    def find(self, number: int) -> Handle | None:
        """Return an open file, None if there is none of that number."""
        return self._handles.get(number)

    def put(self, handle: Handle, path: bytes, replaced: int) -> int:
        """Number what has been opened by a path.

        Args:
            replaced: How often the tree had been replaced before that.
        """
        number = next(self._numbers)
        self._handles[number], self._opened_as[number] = handle, path
        if replaced != self.replaced:
            self._note_if_stale(number, path)
        return number

    def pop(self, number: int) -> Handle:
        """It is closed."""
        self._stale.get(self._opened_as.pop(number), set()).discard(number)
        return self._handles.pop(number)

    def has_stale(self, path: bytes) -> bool:
        """True if a file is open that had a path which is another's now."""
        return bool(self._stale.get(path))

    def tree_replaced(self) -> None:
        """Names may be other files now."""
        self.replaced += 1
        for number, path in list(self._opened_as.items()):
            self._note_if_stale(number, path)

    def _note_if_stale(self, number: int, path: bytes) -> None:
        handle = self._handles.get(number)
        if isinstance(handle, FileHandle | ViewHandle) and handle.ino != self._ino_of(path):
            self._stale.setdefault(path, set()).add(number)
