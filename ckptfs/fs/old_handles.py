"""Handles for what programs opened at a server before this one, which was killed: what it had open goes on.

What it knew of each is told by the transport (transport/handle_book.py).
"""

import os

from ckptfs.fs.control import below_versions
from ckptfs.fs.control_files import ControlFiles
from ckptfs.fs.door import through_door
from ckptfs.fs.handles import ControlHandle, FileHandle, ViewHandle
from ckptfs.fs.marker import Touch
from ckptfs.fs.trees import Trees
from ckptfs.fs.versions_directory import VersionsDirectory


class OldHandles:
    """Those of one mount."""

    def __init__(self, trees: Trees, versions: VersionsDirectory, controls: ControlFiles) -> None:
        self._trees = trees
        self._versions = versions
        self._controls = controls

    @through_door
    def go_on_file(self, path: bytes | None, ino: int, flags: int) -> FileHandle:
        """Return a handle for an open file that the kernel has; path is None when it has lost its name."""
        return self._trees.writable().open_files.go_on(path, ino, flags)

    @through_door
    def go_on_view(self, path: bytes | None, ino: int, flags: int) -> ViewHandle:
        """Return a handle for an open file of a version, which its path need not lead to any more."""
        below = below_versions(path) if path is not None else None
        tree = self._versions if below is not None or self._trees.live is not None else self._trees.version_shown()
        where = path if below is None else below
        try:
            if where is not None and tree.attributes(where).ino == ino:
                return tree.open(where, flags)
        except FileNotFoundError:
            pass  # the mount shows another version now
        return self._versions.open_inode(ino, flags)

    def go_on_mapped(self, ino: int, path: bytes) -> bool:
        """A file may be changed through a mapping; return False if there is no such file any more."""
        return self._trees.live is not None and self._trees.writable().open_files.unseen.go_on_mapped(ino, path)

    @through_door
    def go_on_control(
        self, path: bytes, flags: int, shown: bytes, text: bytes, *, process: int, began_ns: int, captured: bytes | None
    ) -> ControlHandle:
        """Return a handle for an open control file.

        Args:
            shown: What reading it gives.
            text: What has been written to it.
            process, began_ns, captured: Of `.save`, see marker.Touch.
        """
        touch = Touch(process, bool(flags & os.O_APPEND), began_ns, bytearray(text), captured_text=captured)
        return self._controls.go_on(path, flags, shown, touch)
