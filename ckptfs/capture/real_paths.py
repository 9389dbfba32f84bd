"""Which paths are of a tree itself: what lies behind a symlink is another's, also if there was a directory once."""

import errno
import os
import stat

from ckptfs.capture.reach import reach


class RealPaths:
    """Those of one tree, for as long as nothing that is no directory becomes one.

    Args:
        root_fd: Its root directory.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._directories: dict[bytes, bool] = {b"": True}
        """Paths of which it is known whether they are directories."""

    def lstat(self, path: bytes) -> os.stat_result:
        """Return a path's own status.

        Raises:
            FileNotFoundError: There is no such path.
            NotADirectoryError: What is above it is no directory, but a symlink to one, for example.
        """
        if not self._is_directory(path.rpartition(b"/")[0]):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
        return os.stat(reach(self._root_fd, path), dir_fd=self._root_fd, follow_symlinks=False)

    def _is_directory(self, path: bytes) -> bool:
        unknown = []
        while path not in self._directories:
            unknown.append(path)
            path = path.rpartition(b"/")[0]
        is_directory = self._directories[path]
        for below in reversed(unknown):
            is_directory = is_directory and self._look(below)
            self._directories[below] = is_directory
        return is_directory

    def _look(self, path: bytes) -> bool:
        try:
            status = os.stat(reach(self._root_fd, path), dir_fd=self._root_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISDIR(status.st_mode)
