"""The client: saving and loading from a Python program, with the standard library alone.

All it does is to read and write the control files of a mount; a program in another language does the same with its own
means (docs/frameworks/python.md).

Rules:
    N1  nothing here imports anything but the standard library, ckptfs.errors, ckptfs.mount_table
        and ckptfs.watch_table
    N2  no handle, thread or other state outlives a call: a Checkpoint may be pickled, and used after fork
"""

from ckptfs.client.checkpoint import Checkpoint, checkpoint
from ckptfs.client.version import Version

__all__ = ["Checkpoint", "Version", "checkpoint"]
