"""Mounts as commands see them: found in the kernel's table, and asked through a child process that may be left behind.

Whoever touches a mount whose process hangs, hangs with it, and may be beyond SIGKILL.
"""

import errno
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from ckptfs.errors import InvalidInputError, MountError
from ckptfs.mount_table import Mount, mount_at

_ANSWER_TIMEOUT_S = 5.0
"""A control file is made from memory in milliseconds; 5 s allows for a machine whose cores are all busy."""


class DeadMountError(MountError):
    """The process of a mount is gone."""


class ClosedMountError(MountError):
    """A mount of another user, who lets nobody else in: not even root."""


def require_mount(path: Path) -> Mount:
    """Return the ckptfs mount that a path is in.

    Raises:
        InvalidInputError: It is in none.
    """
    mount = mount_at(path)
    if mount is None:
        raise InvalidInputError(
            f"{path} is not in a ckptfs mount", hint="`ckptfs status` lists the mounts of this machine"
        )
    return mount


def read_control(mountpoint: Path, name: str) -> dict[str, Any]:
    """Return the JSON object that a control file of a mount gives.

    Args:
        mountpoint: Of the mount.
        name: `.status` or `.save`.

    Raises:
        DeadMountError: Its process is gone.
        ClosedMountError: It is another user's.
        MountError: It does not answer.
    """
    path = mountpoint / name
    reader = subprocess.Popen(
        ["cat", "--", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"LC_ALL": "C"},
    )
    try:
        out, err = reader.communicate(timeout=_ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        _abandon(reader)
        raise MountError(
            f"the mount at {mountpoint} did not answer within {_ANSWER_TIMEOUT_S:.0f} s",
            hint=f"its process hangs; `fusermount3 -uz {mountpoint}` takes the mount away",
        ) from error
    if reader.returncode != 0:
        why = err.decode(errors="replace").strip().rpartition(": ")[2] or f"exit code {reader.returncode}"
        # ECONNABORTED: it went while we asked
        if why in (os.strerror(errno.ENOTCONN), os.strerror(errno.ECONNABORTED)):
            raise DeadMountError(
                f"the process of the mount at {mountpoint} is gone",
                hint=f"`ckptfs umount {mountpoint}` clears it away, then mount again; what was captured is kept",
            )
        if why == os.strerror(errno.EACCES):
            raise ClosedMountError(
                f"the mount at {mountpoint} is another user's",
                hint="ask as that user, who may let others in: --allow-other",
            )
        raise MountError(f"cannot read {path}: {why}")
    try:
        document = json.loads(out)
    except ValueError as error:
        raise MountError(f"{path} is not JSON: {error}") from error
    return dict(document)


def _abandon(reader: subprocess.Popen[bytes]) -> None:
    """Kill a child without waiting for it: one that hangs in a FUSE request may be beyond SIGKILL."""
    reader.kill()
    for pipe in (reader.stdout, reader.stderr):
        if pipe is not None:
            pipe.close()
    try:
        reader.wait(0.1)
    except subprocess.TimeoutExpired:
        # as if it had been waited for: else Popen complains when it is deleted
        reader.returncode = -signal.SIGKILL
