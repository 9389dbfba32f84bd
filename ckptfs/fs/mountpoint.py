"""The mount point: is it free, and letting go of a mount, without ever entering one that may hang."""

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

from ckptfs.errors import MountError
from ckptfs.mount_table import FILESYSTEM_TYPE, mounted_by, rows

_MNT_DETACH = 2
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
# a mount whose process is gone answers at once (ENOTCONN); one that does not answer in 5 s hangs
_PROBE_TIMEOUT_S = 5.0
# what any call in a mount gives whose process is gone, or goes meanwhile
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)

_libc = ctypes.CDLL(None, use_errno=True)


class OwnMount:
    """A mount that this process makes and takes away itself."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint

    def prepare(self) -> None:
        """See prepare_mountpoint."""
        prepare_mountpoint(self._mountpoint)

    def is_there(self) -> bool:
        """True while it is mounted."""
        return is_mounted(self._mountpoint)

    def take_away(self) -> None:
        """Take it out of the tree, if it is there. Raises MountError."""
        if self.is_there():
            detach(self._mountpoint)


def prepare_mountpoint(mountpoint: Path) -> None:
    """Make sure that a mount point can be mounted on; a dead mount of ours is taken away first.

    Raises:
        MountError: It is missing, is no directory, or a live mount of ours is there.
    """
    if is_mounted(mountpoint):
        if _answers(mountpoint):
            raise MountError(
                f"{mountpoint} is already mounted",
                hint=f"`ckptfs status {mountpoint}` tells what it is; unmount it first",
            )
        detach(mountpoint)
    try:
        status = os.stat(mountpoint)
    except FileNotFoundError as error:
        raise MountError(f"{mountpoint} does not exist", hint=f"make it first: mkdir -p {mountpoint}") from error
    except OSError as error:
        raise MountError(f"cannot look at {mountpoint}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise MountError(f"{mountpoint} is not a directory", hint="a mount point is a directory, best an empty one")


def is_mounted(mountpoint: Path) -> bool:
    """True if the uppermost mount at exactly this path is one of ours; looks at the kernel's table only."""
    wanted = os.path.abspath(mountpoint)
    top = ""
    for row in rows():
        if row.mountpoint == wanted:
            top = row.kind
    return top == FILESYSTEM_TYPE


def unmount(mountpoint: Path) -> None:
    """Unmount; refused while somebody uses it. Raises MountError."""
    _unmount(mountpoint, 0, "-u")


def detach(mountpoint: Path) -> None:
    """Take a mount out of the tree at once; who has files open there keeps them. Raises MountError."""
    _unmount(mountpoint, _MNT_DETACH, "-uz")


def forbid_execution(mountpoint: Path) -> None:
    """Make a mount of ours noexec. Raises MountError: it takes root."""
    # a remount sets all flags anew
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if os.statvfs(mountpoint).f_flag & os.ST_RDONLY:
        flags |= _MS_RDONLY
    if _libc.mount(None, os.fsencode(mountpoint), None, flags, None) != 0:
        why = os.strerror(ctypes.get_errno())
        raise MountError(f"could not make {mountpoint} noexec: {why}")


def _unmount(mountpoint: Path, flags: int, option: str) -> None:
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), flags) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise _in_use(mountpoint)
        raise MountError(f"could not unmount {mountpoint}: {os.strerror(number)}")
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise MountError("neither fusermount3 nor fusermount is installed", hint="apt-get install fuse3")
    # it would say that it is not in the table of mounts: it looks for this user's alone
    if mounted_by(mountpoint) not in (None, os.getuid()):
        raise MountError(f"{mountpoint} was mounted by another user", hint="unmount it as that user, or as root")
    command = [program, option, "--", str(mountpoint)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    if result.returncode != 0:
        why = result.stderr.strip().rpartition(": ")[2] or f"exit code {result.returncode}"
        if why == os.strerror(errno.EBUSY):
            raise _in_use(mountpoint)
        raise MountError(f"could not unmount {mountpoint}: {why}")


def _in_use(mountpoint: Path) -> MountError:
    return MountError(f"{mountpoint} is in use", hint=f"`fuser -vm {mountpoint}` lists the processes that use it")


def _answers(mountpoint: Path) -> bool:
    """False if the process of a mount is gone. One that hangs, or does not let us in, is not ours to take away."""
    # statfs(2): what the kernel remembers of the root it would tell of a dead mount as well
    probe = subprocess.Popen(
        ["stat", "--file-system", "--", str(mountpoint)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"LC_ALL": "C"},
    )
    try:
        _, said = probe.communicate(timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # not waited for: it may hang in the mount beyond SIGKILL
        probe.kill()
        return True
    return not any(os.strerror(number).encode() in said for number in _DEAD)
