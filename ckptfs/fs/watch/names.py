"""The names that a watch keeps for itself in its directory, and what of a directory is in no version."""

from ckptfs.fs.control import Control
from ckptfs.transfer.temporary import token_of

SAVE = Control.SAVE.value
STATUS = Control.STATUS.value
RESTORE = Control.RESTORE.value
ANSWERS = b".save.status"
IN_ROOT = frozenset((SAVE, STATUS, RESTORE, ANSWERS))

_OF_THE_FILESYSTEM = b"lost+found"


def is_temporary(name: bytes) -> bool:
    """True for a file that a restore or a watch writes before it gets its name."""
    return token_of(name) is not None


def is_ours(directory: bytes, name: bytes) -> bool:
    """True for a name that is in no version: ours, or one that a filesystem has in its root.

    Args:
        directory: Relative to the watched one, b"" for itself.
    """
    if name == SAVE or is_temporary(name):
        return True
    return not directory and (name in IN_ROOT or name == _OF_THE_FILESYSTEM)
