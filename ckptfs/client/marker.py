"""Touching the save marker of a mount, and knowing which version the touch made.

Two programs may save at the same moment, so that the newest version a moment later is not the one that was made here.
What reading a handle gives changes when its touch captures: it tells of that touch's own version. Closing a duplicate
captures, and says what went wrong; then the number is read, and the touch ends.
"""

import errno
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from ckptfs.errors import CacheError, CkptfsError, InvalidInputError, NoteTooLargeError, ReadOnlyError

Note = dict[str, Any] | str | None

NAME = ".save"
NOTE_LIMIT_BYTES = 64 << 10
"""As the marker's own."""

_HALF = re.compile("[\ud800-\udfff]")

# one touch at a time in a process: the mount takes the touches of two threads for one program's, which ends the first
# when the second begins
_one_at_a_time = threading.Lock()


def _begin_anew() -> None:
    """Free a child's lock: a thread that held it at the fork is not there to do it."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


def encode_note(note: Note) -> bytes:
    """Return the text of a note: an object as JSON, a message as it is.

    Raises:
        NoteTooLargeError: It is over 64 KiB.
        InvalidInputError: It is no note.
    """
    if note is None:
        return b""
    try:
        text = (
            note
            if isinstance(note, str)
            else _HALF.sub(_visible, json.dumps(dict(note), default=_plain, ensure_ascii=False))
        )
        encoded = text.encode("utf-8", "surrogateescape")
    except RecursionError as error:
        raise InvalidInputError("the note is nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"a note is a dict or a message, not {note!r:.200}: {error}") from error
    if len(encoded) > NOTE_LIMIT_BYTES:
        raise NoteTooLargeError(f"the note has {len(encoded)} bytes")
    return encoded


def touch(directory: Path, text: bytes, *, sync: bool = False) -> dict[str, Any]:
    """Touch a mount's marker in a directory; return what it says of the version that this made.

    Args:
        sync: Return when it is durable, or when the mount waits no longer (`--sync-timeout`: EIO).

    Raises:
        OSError: Nothing was captured; or, with `sync`, it is not durable.
    """
    with _one_at_a_time:
        # no O_CREAT: where the marker cannot be looked up there is no mount, and no file is to be left there
        fd = os.open(directory / NAME, os.O_RDWR | os.O_CLOEXEC)
        try:
            if text:
                os.write(fd, text)
            if sync:
                os.fsync(fd)
            else:
                os.close(os.dup(fd))
            # at most six bytes for each of the note, and little else; for the longest note that may be the kernel
            # would make 128 pages ready at every save, and the trainer's memory be laid out anew
            said: dict[str, Any] = json.loads(os.pread(fd, 8 * len(text) + 4096, 0))
        except BaseException:
            try:
                os.close(fd)
            except OSError:
                pass  # it says the same once more
            raise
        os.close(fd)
        return said


def explained(error: OSError, root: Path) -> CkptfsError | None:
    """Return what a failed touch means; None where its number alone does not say."""
    if error.errno == errno.EROFS:
        return ReadOnlyError(
            f"nothing can be saved at {root}: it is read-only, or another writer took the store over",
            hint=f"`ckptfs status {root}` says which",
        )
    if error.errno == errno.ENOSPC:
        return CacheError(
            f"nothing was saved at {root}: its cache directory is full",
            hint="free some space there, then save again",
        )
    return None


def _visible(half: re.Match[str]) -> str:
    """Return what stands in an object for half of a surrogate pair: bytes of a name as the mount shows them."""
    code = ord(half[0])
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\\\u{code:04x}"


def _plain(value: Any) -> Any:
    """Return what JSON has for numbers of numpy and tensors of one element, and for anything else its text."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return item()
        except (TypeError, ValueError, RuntimeError):
            pass  # of several elements
    return str(value)
