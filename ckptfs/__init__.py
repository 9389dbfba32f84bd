"""ckptfs: a checkpoint filesystem. Write plain files, touch `.save`, find the newest version again after a remount.

    checkpoint = ckptfs.checkpoint("/ckpt")      # a directory of a mount; or $CKPTFS_DIR
    checkpoint.save({"step": 100})

The client (ckptfs/client/) needs the standard library alone, and is imported when it is first asked for.
"""

__version__ = "0.1.0"

# that of `typing` alone takes 5 ms to import
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptfs.client import Checkpoint as Checkpoint
    from ckptfs.client import Version as Version
    from ckptfs.client import checkpoint as checkpoint

_OF_THE_CLIENT = ("Checkpoint", "Version", "checkpoint")


def __getattr__(name: str) -> object:
    """Import the client when one of its names is asked for (PEP 562)."""
    if name not in _OF_THE_CLIENT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ckptfs import client

    return getattr(client, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_OF_THE_CLIENT])
