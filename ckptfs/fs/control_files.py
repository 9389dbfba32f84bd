"""Control files: what reading, writing, closing and renaming to `.save`, `.restore` and `.status` do.

Which touch captures is decided in marker.py; what the files say is made by control.py.
"""

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ckptfs.errors import ReadOnlyError, os_error
from ckptfs.fs.attributes import Attributes, Caller, virtual_file
from ckptfs.fs.control import Control, asks_for_nothing, control_of, save_text, version_of_marker
from ckptfs.fs.handles import ControlHandle
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.marker import NOTE_LIMIT_BYTES, Touch
from ckptfs.fs.syscalls import is_exclusive_create, process_of
from ckptfs.fs.times import NOW_NS
from ckptfs.fs.tree_view import TreeView, marker_inode
from ckptfs.fs.version_state import VersionState
from ckptfs.fs.versions_directory import VersionsDirectory
from ckptfs.fs.writable import Writable

# Above what any local filesystem numbers its inodes, below the versions' (tree_view.py)
_CONTROL_INODE = (1 << 62) - 1024
# of a file in the spare directory whose text is becoming a note
_NOTE_PREFIX = "note-"


@dataclass(slots=True, kw_only=True)
class ControlFiles:
    """Those of one mount.

    Args:
        texts: What reading `.save`, `.status` and `.restore` gives.
        versions: Has a `.save` for each version.
        writable: None for a read-only mount.
        tree: Returns what the mount shows.
    """

    texts: dict[Control, Callable[[], bytes]]
    versions: VersionsDirectory
    writable: Writable | None
    tree: Callable[[], LiveTree | TreeView]
    _makers: set[int] = field(default_factory=set, init=False)
    """Threads that made `.save` and have not closed it."""

    # attributes

    def attributes(self, path: bytes, control: Control) -> Attributes:
        """Return a control file's attributes; its directory must be there."""
        owner = self._directory(path)
        # who may make files in the directory may save, and who may list it may know what was
        mode = owner.mode & (0o444 if control is Control.STATUS else 0o666)
        # room for what reading gives: some programs read no further than the size
        size_bytes = len(self.texts[control]()) if control in self.texts else 0
        return virtual_file(_CONTROL_INODE + list(Control).index(control), mode, owner, size_bytes)

    def _directory(self, path: bytes) -> Attributes:
        """Return the attributes of a control file's directory. Raises OSError if that is none."""
        owner = self.tree().attributes(path.rpartition(b"/")[0])
        if not stat.S_ISDIR(owner.mode):
            raise os_error(errno.ENOTDIR)
        return owner

    def attributes_of_version(self, number: int) -> Attributes:
        """Return the attributes of a version's `.save`."""
        owner = self.versions.attributes(b"%d" % number)
        return virtual_file(marker_inode(number), owner.mode & 0o444, owner, len(self._text_of_version(number)))

    def refuse_lookup_to_create(self, caller: Caller) -> None:
        """Let `.save` not be found (ENOENT) if it is looked up by an open(2) that is to make it.

        When it has made it, the kernel may ask for its attributes within the same call; the maker is shown them.
        """
        if caller.pid not in self._makers and is_exclusive_create(caller.pid):
            raise os_error(errno.ENOENT)

    # open ones

    def open(self, path: bytes, control: Control, flags: int, caller: Caller) -> ControlHandle:
        """Open one; `.save` for writing begins a touch."""
        self._directory(path)
        handle = ControlHandle(control, self.texts[control]())
        if flags & os.O_ACCMODE == os.O_RDONLY:
            if self.writable is not None:
                self.writable.looked_at()
            return handle
        writable = self._writable()
        if control is Control.STATUS:
            raise os_error(errno.EACCES)
        if control is Control.SAVE:
            # said at open, for `: > .save` in a shell does not look at what closing said
            writable.check_save_allowed()
            handle.touch = writable.marker.begin(process_of(caller.pid), appends=bool(flags & os.O_APPEND))
        return handle

    def create(self, path: bytes, flags: int, caller: Caller) -> ControlHandle:
        """Open `.save` for a program that believes to make it."""
        handle = self.open(path, Control.SAVE, flags, caller)
        handle.maker = caller.pid
        self._makers.add(caller.pid)
        return handle

    def open_of_version(self, number: int, flags: int) -> ControlHandle:
        """Open a version's `.save`."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise os_error(errno.EROFS)
        return ControlHandle(Control.SAVE, self._text_of_version(number))

    def write(self, handle: ControlHandle, data: memoryview, offset_bytes: int) -> int:
        """Write to one; return how many bytes were taken."""
        if handle.touch is not None:
            return self._writable().marker.write(handle.touch, data, offset_bytes)
        if offset_bytes + len(data) > NOTE_LIMIT_BYTES:
            raise os_error(errno.EFBIG)
        handle.written[offset_bytes : offset_bytes + len(data)] = data
        # a shell does not look at what closing said, so a version that is not there is refused here
        self._writable().restorer.check(_spec(handle))
        return len(data)

    def truncate(self, handle: ControlHandle, size_bytes: int) -> None:
        """Set the size of what was written."""
        if handle.touch is not None:
            self._writable().marker.truncate(handle.touch, size_bytes)
        else:
            del handle.written[size_bytes:]

    def flush(self, handle: ControlHandle) -> None:
        """A descriptor is being closed: it may be the end of a touch, or ask for a restore."""
        self._makers.discard(handle.maker)
        if handle.touch is not None:
            self._writable().marker.flush(handle.touch)
            self._show_saved(handle, handle.touch)
        elif handle.written:
            spec = _spec(handle)
            handle.written.clear()
            self._writable().restorer.restore(spec)

    def sync(self, handle: ControlHandle) -> None:
        """Wait until all captured versions are durable, if it is `.save`."""
        if handle.control is not Control.SAVE or self.writable is None:
            return
        self.writable.marker.sync(handle.touch)
        if handle.touch is not None:
            self._show_saved(handle, handle.touch)

    def release(self, handle: ControlHandle) -> None:
        """The last descriptor is closed."""
        if handle.touch is not None:
            self._writable().marker.release(handle.touch)

    def go_on(self, path: bytes, flags: int, shown: bytes, touch: Touch) -> ControlHandle:
        """Return a handle of a file that a program has had open since before this process began.

        Args:
            shown: What reading it gives.
            touch: What it is of `.save`; of `.restore` its text counts.
        """
        control = Control.SAVE if version_of_marker(path) is not None else control_of(path)
        if control is None:
            raise os_error(errno.ENOENT)
        handle = ControlHandle(control, shown)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return handle
        if control is Control.SAVE:
            handle.touch = self._writable().marker.go_on(touch)
        else:
            handle.written[:] = touch.text
        return handle

    # touches without an open file

    def touch(self) -> None:
        """Touch `.save`, with an empty note."""
        writable = self._writable()
        writable.check_save_allowed()
        writable.marker.put(b"")

    def set_times(self, caller: Caller, mtime_ns: int | None) -> None:
        """Touch `.save` by setting its times; see Operations.utimens."""
        writable = self._writable()
        writable.check_save_allowed()
        writable.marker.set_times(process_of(caller.pid), time.time_ns() if mtime_ns == NOW_NS else mtime_ns)

    def touch_by_rename(self, live: LiveTree, old: bytes) -> None:
        """Take a file away and make its text the note of a touch; a capture that fails puts it back."""
        writable = self._writable()
        writable.check_save_allowed()
        status = live.lstat(old)
        if not stat.S_ISREG(status.st_mode):
            raise os_error(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL)
        if status.st_size > NOTE_LIMIT_BYTES:
            raise os_error(errno.EFBIG)
        spare = os.fsencode(_NOTE_PREFIX + secrets.token_hex(8))
        # open until it has moved, so that it stays whole
        handle = writable.open_files.open(old, os.O_RDONLY)
        try:
            if handle.reader is not None:
                handle.reader.require_all()
            text = os.pread(handle.fd, NOTE_LIMIT_BYTES, 0)
            writable.names.move_out(old, spare, keep_name=False)
        finally:
            writable.open_files.close(handle)
        try:
            writable.marker.put(text)
        except BaseException:
            writable.names.move_in(spare, old)
            raise
        os.unlink(spare, dir_fd=live.spare_fd)

    def finish_touch_by_rename(self) -> None:
        """Go on with a file that was being renamed to `.save` when the process before this one was killed."""
        writable = self._writable()
        for name in os.listdir(writable.live.spare_fd):
            if name.startswith(_NOTE_PREFIX):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=writable.live.spare_fd)
                try:
                    text = os.pread(fd, NOTE_LIMIT_BYTES, 0)
                finally:
                    os.close(fd)
                writable.marker.put(text)
                os.unlink(name, dir_fd=writable.live.spare_fd)

    def _writable(self) -> Writable:
        if self.writable is None:
            raise ReadOnlyError("the mount is read-only")
        return self.writable

    def _show_saved(self, handle: ControlHandle, touch: Touch) -> None:
        """Have reading the handle of a touch give the version that the touch made, if it has made one."""
        state = self._writable().state_of(touch.saved.pending.version) if touch.saved is not None else None
        if state is not None:
            handle.text = save_text(state)

    def _text_of_version(self, number: int) -> bytes:
        return save_text(VersionState.of_record(self.versions.record(number)))


def _spec(handle: ControlHandle) -> str:
    if asks_for_nothing(bytes(handle.written)):
        return ""
    return bytes(handle.written).decode("utf-8", "replace").strip().strip("\0").strip()
