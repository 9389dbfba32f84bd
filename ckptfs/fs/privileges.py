"""What a file loses of its mode when somebody changes it who may not keep it: setuid, and setgid."""

import errno
import os
import stat
from collections.abc import Callable

from ckptfs.errors import os_error
from ckptfs.fs.attributes import Caller
from ckptfs.fs.control import below_versions, control_of
from ckptfs.fs.door import through_door
from ckptfs.fs.handles import FileHandle, Handle
from ckptfs.fs.syscalls import groups_of
from ckptfs.fs.trees import Trees


class Privileges:
    """Those of the files of one mount."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    @through_door
    def drop(self, path: bytes | None, caller: Caller, handle: Handle | None = None) -> None:
        """Take setuid and setgid from a file, as writing to it must.

        Args:
            path: None if it has no name.
            handle: Of it, if it has no name.
        """
        self._leave_mode(_left_mode, path, caller, handle)

    @through_door
    def drop_setgid(self, path: bytes | None, caller: Caller, handle: Handle | None = None) -> None:
        """Take setgid from a file of whose group the caller is not, as giving it an access control list must.

        Args:
            path, handle: See drop.
        """
        self._leave_mode(_left_mode_with_list, path, caller, handle)

    def _leave_mode(
        self,
        left_mode: Callable[[os.stat_result, Caller], int],
        path: bytes | None,
        caller: Caller,
        handle: Handle | None,
    ) -> None:
        if path is None:
            if isinstance(handle, FileHandle):
                left = left_mode(os.fstat(handle.fd), caller)
                self._trees.writable().open_files.nameless.change(handle, left, (-1, -1), None)
        elif control_of(path) is None and below_versions(path) is None:
            live = self._trees.writable().live
            status = live.lstat(path)
            left = left_mode(status, caller)
            if left != stat.S_IMODE(status.st_mode):
                live.chmod(path, left)

    @through_door
    def chown_to_nobody(self, path: bytes, caller: Caller) -> None:
        """chown(2) that leaves owner and group: anybody may, but only the owner takes setuid and setgid away by it."""
        if control_of(path) is None:
            live = self._trees.changeable(path)
            status = live.lstat(path)
            if caller.uid not in (0, status.st_uid) and _left_mode(status, caller) != stat.S_IMODE(status.st_mode):
                raise os_error(errno.EPERM)
            self.drop(path, caller)
            live.chown(path, -1, -1)


def _left_mode(status: os.stat_result, caller: Caller) -> int:
    """Return the permission bits that a file keeps when someone without CAP_FSETID changes it."""
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
        return mode
    left = mode & ~stat.S_ISUID
    # setgid without group execution means mandatory locking, and stays for who is in the group
    return left if not mode & stat.S_IXGRP and _is_in_group(status, caller) else left & ~stat.S_ISGID


def _left_mode_with_list(status: os.stat_result, caller: Caller) -> int:
    mode = stat.S_IMODE(status.st_mode)
    return mode if not mode & stat.S_ISGID or _is_in_group(status, caller) else mode & ~stat.S_ISGID


def _is_in_group(status: os.stat_result, caller: Caller) -> bool:
    return caller.uid == 0 or caller.gid == status.st_gid or status.st_gid in groups_of(caller.pid)
