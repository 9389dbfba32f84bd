"""The errors of ckptfs: each carries an errno, the facts, and a hint.

Raise or log, never both. Layers below the command line never print. The filesystem's one door (fs/door.py) turns
whatever reaches it into an errno; the command line (cli/) turns it into two lines and an exit code.
"""

import errno
import os


class CkptfsError(Exception):
    """A failure that a person can act on.

    Args:
        fact: What happened, with the values that matter (operation, path, expected, actual). No trailing dot.
        hint: What to do about it, or None to take the class's.
    """

    errno: int = errno.EIO
    hint: str | None = None

    def __init__(self, fact: str, *, hint: str | None = None) -> None:
        super().__init__(fact)
        self.fact = fact
        if hint is not None:
            self.hint = hint


class InvalidInputError(CkptfsError):
    """The user named something that cannot be: a malformed URL, version, tag or note."""

    errno = errno.EINVAL


class NoStoreError(InvalidInputError):
    """The place that the user named is no ckptfs store."""

    hint = "is the address right? the first read-write `ckptfs mount` of an empty place makes it a store"


class NoSuchVersionError(CkptfsError):
    """A version or tag that is not in the store's history."""

    errno = errno.ENOENT
    hint = "`ckptfs log STORE` lists the versions"


class PrunedError(CkptfsError):
    """What is read is gone because its version was pruned meanwhile; the store is whole."""

    hint = "`ckptfs log STORE` lists the versions that there are"


class NoteTooLargeError(CkptfsError):
    """Text of over 64 KiB was written to the save marker."""

    errno = errno.EFBIG
    hint = "a note is at most 64 KiB; write larger data to a file of the mount"


class ReadOnlyError(CkptfsError):
    """A change was asked of something that is read-only by the user's choice."""

    errno = errno.EROFS


class FencedError(CkptfsError):
    """Another writer took the store over; this one can never commit again."""

    errno = errno.EROFS
    hint = "unmount here; `ckptfs recover` lists what did not enter history"


class DivergedError(CkptfsError):
    """History went another way than the version builds on: it cannot enter history any more, but the next one can."""

    errno = errno.ESTALE
    hint = "`ckptfs recover` lists what did not enter history"


class HeldError(CkptfsError):
    """The store is mounted read-write by a holder that is alive."""

    errno = errno.EBUSY
    hint = "unmount it there, or mount here with --takeover"


class MountError(CkptfsError):
    """The mount point or the machine does not allow the mount."""

    errno = errno.EINVAL


class ExhaustedError(CkptfsError):
    """No more processes or threads may be had now.

    EIO where a request meets it: Python, for one, takes EAGAIN for the end of a file.
    """

    hint = "the container, or the user, is at its limit (pids.max, `ulimit -u`)"


class CacheError(CkptfsError):
    """The cache directory cannot be used as it is."""

    errno = errno.EIO


class KeyMissingError(CkptfsError):
    """A store is encrypted, and no key, or not its key, was given."""

    errno = errno.EACCES
    hint = "give the key that the store was made with: --key-file FILE, --key-command COMMAND, or CKPTFS_KEY"


class RollbackError(CkptfsError):
    """A store shows an older state than this machine has seen of it, or another one in its place."""

    hint = (
        "somebody, or a backup, has put an older state in its place. If that was on purpose, --accept-rollback goes on "
        "from it; what was committed since is not in it"
    )


class NotDurableError(CkptfsError):
    """A captured version could not be made durable in the time allowed; it stays pending."""

    errno = errno.EIO
    hint = "the version is kept on local disk and is uploaded when the store answers; see `ckptfs status`"


# Store errors. Backends raise only these.


class StoreError(CkptfsError):
    """The store answered with a failure that fits no class below."""


class NotFoundError(StoreError):
    """No object has that key."""

    errno = errno.ENOENT


class AlreadyExistsError(StoreError):
    """A create-only put met an object that exists."""

    errno = errno.EEXIST


class StoreMissingError(StoreError):
    """The bucket or directory itself does not exist.

    To programs an EIO: with ENOENT, versions would be missing that only cannot be had now, and `.versions` be empty.
    """


class StoreAccessError(StoreError):
    """Credentials are missing, wrong or expired, or do not allow the request."""

    errno = errno.EACCES


class StoreUnavailableError(StoreError):
    """The store did not answer, or not usefully (5xx, time-out, reset): the request may or may not have been done.

    The one store error that is worth trying again.
    """

    hint = "is the endpoint right and the store up? `ckptfs doctor STORE` checks it"


class UnsafeStoreError(StoreError):
    """The store ignores create-only puts, so two writers could overwrite each other's history."""

    errno = errno.EOPNOTSUPP
    hint = "use a store that honours If-None-Match; or, with one writer only for ever, --unsafe-single-writer"


class CondemnedError(StoreError):
    """A version names an object that `ckptfs prune` has condemned; upload its bytes again under a new key."""


# Format errors.


class UnsupportedFormatError(CkptfsError):
    """An object was written by a newer ckptfs, or needs a feature that this one lacks."""

    errno = errno.EPROTONOSUPPORT
    hint = "install a newer ckptfs"


class CorruptObjectError(CkptfsError):
    """An object's bytes are not what its format or its hash says. Never retried."""

    hint = "run `ckptfs verify` to list the affected versions"


class ChunkCorruptError(CorruptObjectError):
    """Stored bytes do not decode, or do not hash to the chunk's name. Never retried."""


def os_error(number: int, path: str | bytes | None = None) -> OSError:
    """Return the error that a function of the os module raises for an errno, of the subclass that goes with it."""
    if path is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), path)
