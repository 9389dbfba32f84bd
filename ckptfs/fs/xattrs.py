"""Extended attributes: those of live files, which may be set, and those that a version's files have."""

import errno
import os

from ckptfs.errors import os_error
from ckptfs.fs.control import below_versions, control_of
from ckptfs.fs.door import through_door
from ckptfs.fs.handles import FileHandle, OpenFile, of_live_tree
from ckptfs.fs.trees import Trees
from ckptfs.fs.versions_directory import VersionsDirectory

ACCESS_LIST, DEFAULT_LIST = b"system.posix_acl_access", b"system.posix_acl_default"
"""Access control lists: of a file itself, and what a directory hands down to all that is made in it."""


class ExtendedAttributes:
    """Those of one mount; its control files have none."""

    def __init__(self, trees: Trees, versions: VersionsDirectory) -> None:
        self._trees = trees
        self._versions = versions

    @through_door
    def getxattr(self, path: bytes, name: bytes, handle: OpenFile | None = None) -> bytes:
        """Return an extended attribute; with a handle, of a file that has no name any more."""
        if name == b"security.capability":
            # asked before every write, to drop it; no file here has any (setxattr refuses)
            raise os_error(errno.ENODATA)
        if isinstance(handle, FileHandle):
            return os.getxattr(handle.fd, name)
        below = below_versions(path)
        if handle is None and below is None and control_of(path) is None and self._trees.live is not None:
            return self._trees.live.getxattr(path, name)
        try:
            return (self._fixed_xattrs(path, below) if handle is None else handle.xattrs)[name]
        except KeyError:
            raise os_error(errno.ENODATA) from None

    @through_door
    def listxattr(self, path: bytes, handle: OpenFile | None = None) -> list[bytes]:
        """Return the names of all extended attributes."""
        if isinstance(handle, FileHandle):
            return [os.fsencode(name) for name in os.listxattr(handle.fd)]
        if handle is not None:
            return list(handle.xattrs)
        below = below_versions(path)
        if below is None and control_of(path) is None and self._trees.live is not None:
            return self._trees.live.listxattr(path)
        return list(self._fixed_xattrs(path, below))

    @through_door
    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int, handle: OpenFile | None = None) -> None:
        """Set an extended attribute."""
        if name.startswith(b"security."):
            raise os_error(errno.EOPNOTSUPP)
        if handle is not None:
            file = of_live_tree(handle)
            with self._trees.writable().open_files.nameless.changing(file):
                os.setxattr(file.fd, name, value, flags)
            return
        self._trees.changeable(path, errno.EOPNOTSUPP).setxattr(path, name, value, flags)

    @through_door
    def removexattr(self, path: bytes, name: bytes, handle: OpenFile | None = None) -> None:
        """Remove an extended attribute."""
        if handle is not None:
            file = of_live_tree(handle)
            with self._trees.writable().open_files.nameless.changing(file):
                os.removexattr(file.fd, name)
            return
        self._trees.changeable(path, errno.ENODATA).removexattr(path, name)

    def hands_down_list(self, path: bytes) -> bool:
        """True of a directory of the live tree with a default access control list."""
        live = self._trees.live
        try:
            return live is not None and bool(live.getxattr(path, DEFAULT_LIST))
        except OSError:
            return False

    def _fixed_xattrs(self, path: bytes, below: bytes | None) -> dict[bytes, bytes]:
        if below is not None:
            return self._versions.xattrs(below)
        return {} if control_of(path) is not None else self._trees.version_shown().xattrs(path)
