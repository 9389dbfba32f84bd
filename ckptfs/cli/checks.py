"""What `ckptfs doctor` looks at on this machine: each check is one fact, and what to do about it."""

import ctypes
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ckptfs.units import format_size

Result = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """The outcome of one check."""

    check: str
    result: Result
    fact: str
    hint: str | None = None


_DEVICE = Path("/dev/fuse")
_CAP_SYS_ADMIN = 21
_LOW_SPACE_BYTES = 5 << 30
_NO_SPACE_BYTES = 256 << 20
"""Less holds not even eight packs of 32 MiB in flight."""


def check_machine(cache_dir: Path) -> Iterator[Finding]:
    """Yield the findings about this machine.

    Args:
        cache_dir: Where mounts keep local data; it need not exist.
    """
    yield _device()
    yield _kernel()
    yield _libfuse()
    yield _privilege()
    yield _passthrough()
    yield _cache(cache_dir)


def _device() -> Finding:
    hint = "load it with `modprobe fuse`; containers need `--device /dev/fuse --cap-add SYS_ADMIN`, or `ckptfs watch`"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding("fuse device", "fail", f"{_DEVICE} does not exist", hint)
    except PermissionError as error:
        hint = f"it should be open to all: chmod 666 {_DEVICE}; a container needs `--device {_DEVICE}`"
        return Finding("fuse device", "fail", f"{_DEVICE} cannot be opened: {error.strerror}", hint)
    except OSError as error:
        return Finding("fuse device", "fail", f"{_DEVICE} cannot be opened: {error.strerror}", hint)
    return Finding("fuse device", "ok", f"{_DEVICE} can be opened")


def _kernel() -> Finding:
    return Finding("kernel", "ok", f"{os.uname().sysname} {os.uname().release}")


def _libfuse() -> Finding:
    try:
        version = ctypes.CDLL(os.environ.get("FUSE_LIBRARY_PATH") or "libfuse.so.2").fuse_version()
    except (OSError, AttributeError):
        hint = "apt-get install libfuse2 (from Ubuntu 24.04 and Debian 13 on: libfuse2t64)"
        return Finding("libfuse", "fail", "libfuse.so.2 is not there", hint)
    return Finding("libfuse", "ok", f"libfuse {version // 10}.{version % 10}")


def _privilege() -> Finding:
    if _is_capable():
        return Finding("privilege", "ok", "CAP_SYS_ADMIN is there")
    # libfuse 2 asks for it by this name; Debian's fuse3 brings it too
    fusermount = shutil.which("fusermount")
    if fusermount is None:
        fact = "CAP_SYS_ADMIN is missing, and so is fusermount"
    elif not os.stat(fusermount).st_mode & stat.S_ISUID:
        fact = f"CAP_SYS_ADMIN is missing, and {fusermount} is not setuid root"
    else:
        return Finding("privilege", "ok", f"{fusermount} mounts for this user")
    return Finding("privilege", "fail", fact, "apt-get install fuse3, or mount as root")


def _passthrough() -> Finding:
    # the transports come with the whole filesystem: only for this command
    from ckptfs.fs.transport.choice import passthrough_obstacle

    obstacle = passthrough_obstacle()
    if obstacle is None:
        return Finding("passthrough", "ok", "kernel and privileges allow it")
    return Finding("passthrough", "warn", obstacle, "file data goes through libfuse, which is slower")


def _cache(cache_dir: Path) -> Finding:
    place = next(path for path in (cache_dir.absolute(), *cache_dir.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("cache directory", "fail", f"{place} cannot be written", "choose another with --cache-dir")
    filesystem = os.statvfs(place)
    free = filesystem.f_bavail * filesystem.f_frsize
    fact = f"{cache_dir}: {format_size(free)} free"
    if free >= _LOW_SPACE_BYTES:
        return Finding("cache directory", "ok", fact)
    hint = "it holds the files of the mount and what waits for upload; choose a larger disk with --cache-dir"
    return Finding("cache directory", "warn" if free >= _NO_SPACE_BYTES else "fail", fact, hint)


def _is_capable() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
