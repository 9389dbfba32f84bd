"""The kernel's table of mounts, read without touching any of them: one whose process hangs would hang the reader."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILESYSTEM_TYPE = "fuse.ckptfs"

_TABLE = Path("/proc/self/mountinfo")
_MOST_LINKS = 40
"""As many as the kernel follows."""


class Row(NamedTuple):
    """One mount of any filesystem. Source: proc_pid_mountinfo(5)."""

    mountpoint: str
    device: str
    """`major:minor`."""
    kind: str
    source: str
    options: str
    """Of the filesystem, as it has them: `rw,user_id=1000,...`."""


class Mount(NamedTuple):
    """One mount of ckptfs."""

    mountpoint: Path
    store: str
    """The store's address."""


def rows() -> Iterator[Row]:
    """Yield all mounts that this process can see; the upper of two at the same place comes later."""
    for line in _TABLE.read_text(errors="surrogateescape").splitlines():
        # 36 35 98:0 /root /mount/point options shared:1 - type source super-options
        before, _, after = line.partition(" - ")
        fields, (kind, source, options) = before.split(" "), after.split(" ")[:3]
        yield Row(_unescape(fields[4]), fields[2], kind, _unescape(source), options)


def mounts() -> list[Mount]:
    """Return the mounts of ckptfs, in the order of the table."""
    return [Mount(Path(row.mountpoint), row.source) for row in rows() if row.kind == FILESYSTEM_TYPE]


def mounted_by(mountpoint: Path) -> int | None:
    """Return the user for whom a filesystem of FUSE was mounted, None if there is no such mount."""
    options = [row.options for row in rows() if row.mountpoint == os.fspath(mountpoint)]
    found = re.search(r"\buser_id=(\d+)", options[-1]) if options else None
    return int(found[1]) if found is not None else None


def mount_at(path: Path) -> Mount | None:
    """Return the mount of ckptfs that a path is in, None if it is in none."""
    table = mounts()
    if not table:
        return None
    absolute = Path(os.path.abspath(path))
    # symlinks are followed only if need be, for that looks at the mount point itself, if the path leads on into it
    return (
        _containing(absolute, table)
        or _containing(real_mountpoint(absolute), table)
        or _containing(absolute.resolve(), table)
    )


def real_mountpoint(path: Path) -> Path:
    """Return a mount point as the table will have it: absolute, and without symlinks.

    A mount that is there already, and may hang, is not entered: of the last name it is only asked whether it is a link.
    """
    found = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        found = os.path.join(os.path.realpath(os.path.dirname(found)), os.path.basename(found))
        try:
            found = os.path.join(os.path.dirname(found), os.readlink(found))
        except OSError:
            break  # it is none, or nothing is there
    return Path(os.path.normpath(found))


def _containing(path: Path, table: list[Mount]) -> Mount | None:
    inside = [mount for mount in table if path.is_relative_to(mount.mountpoint)]
    # the innermost; of two at the same place the upper one, which is the later row
    return max(reversed(inside), key=lambda mount: len(mount.mountpoint.parts), default=None)


def _unescape(field: str) -> str:
    """Return a field of the table with its octal escapes (a space is 040) undone."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
