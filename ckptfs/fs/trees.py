"""Telling paths apart: which tree one belongs to, and whether it may be changed there."""

import errno
from collections.abc import Callable

from ckptfs.errors import CkptfsError, ReadOnlyError, os_error
from ckptfs.fs.control import Control, below_versions, control_of
from ckptfs.fs.live.names import LiveNames
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.tree_view import TreeView
from ckptfs.fs.writable import Writable


class Trees:
    """What a mount shows: its live tree, or a version.

    Args:
        writable: None for a read-only mount, which shows `view()`.
    """

    def __init__(self, writable: Writable | None, view: Callable[[], TreeView] | None) -> None:
        self._writable = writable
        self._view = view

    @property
    def live(self) -> LiveTree | None:
        """The live tree; None of a read-only mount."""
        return self._writable.live if self._writable is not None else None

    def shown(self) -> LiveTree | TreeView:
        """Return what is below the mount's root."""
        return self._writable.live if self._writable is not None else self.version_shown()

    def version_shown(self) -> TreeView:
        """Return the version that a read-only mount shows now."""
        if self._view is None:
            raise CkptfsError("a mount has neither a live tree nor a version to show")
        return self._view()

    def writable(self) -> Writable:
        """Return what a read-write mount has. Raises ReadOnlyError for any other."""
        if self._writable is None:
            raise ReadOnlyError("the mount is read-only")
        return self._writable

    def changeable(self, path: bytes, control_errno: int = errno.EPERM) -> LiveTree:
        """Return the live tree if a path may be changed there; a reserved name gives the errno."""
        if below_versions(path) is not None and path != Control.VERSIONS.value:
            raise os_error(errno.EROFS)
        refuse_control(path, control_errno)
        return self.writable().live

    def nameable(self, path: bytes, control_errno: int) -> LiveNames:
        """Return the names of the live tree if one may come, go or change there; a reserved one gives the errno."""
        self.changeable(path, control_errno)
        return self.writable().names


def refuse_control(path: bytes, number: int) -> None:
    """Raise an OSError with an errno if a path is a reserved name."""
    if control_of(path) is not None:
        raise os_error(number)
