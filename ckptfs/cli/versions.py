"""Versions and their entries, as the commands that list them show them."""

import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckptfs.cli.output import rfc3339

if TYPE_CHECKING:
    from ckptfs.format.commit import CommitRecord
    from ckptfs.format.manifest import Entry


def version_document(record: "CommitRecord", tags: Mapping[str, int]) -> dict[str, Any]:
    """Return what is said of a version in JSON.

    Args:
        record: Its save record.
        tags: Tag to version number.
    """
    return {
        "version": record.version,
        "time": rfc3339(record.captured_ns),
        "host": record.host,
        "files": record.files,
        "bytes": record.bytes,
        "bytes_added": record.bytes_added,
        "note": record.note,
        "tags": tags_of(record.version, tags),
        "torn": record.torn,
        "seq": record.seq,
    }


def tags_of(version: int, tags: Mapping[str, int]) -> list[str]:
    """Return the names of a version, sorted."""
    return sorted(name for name, number in tags.items() if number == version)


def path_text(path: bytes) -> str:
    """Return a path for JSON: UTF-8, with bytes that are none as lone surrogates, as os.fsdecode does."""
    return path.decode("utf-8", "surrogateescape")


def entry_document(entry: "Entry") -> dict[str, Any]:
    """Return what is said of one entry of a version in JSON."""
    return {
        "path": path_text(entry.path) or ".",
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size_bytes,
        "mtime": rfc3339(entry.mtime_ns),
        "mtime_ns": entry.mtime_ns,
        "target": path_text(entry.target) if entry.target else None,
        "link_id": entry.link_id or None,
        "xattrs": sorted(path_text(name) for name, _value in entry.xattrs),
        "torn": entry.torn,
    }


_FORMATS = {
    "FILE": stat.S_IFREG,
    "DIRECTORY": stat.S_IFDIR,
    "SYMLINK": stat.S_IFLNK,
    "FIFO": stat.S_IFIFO,
    "SOCKET": stat.S_IFSOCK,
    "CHARACTER": stat.S_IFCHR,
    "BLOCK": stat.S_IFBLK,
}


def mode_text(entry: "Entry") -> str:
    """Return kind and permissions as `ls -l` shows them: `-rw-r--r--`."""
    return stat.filemode(_FORMATS[entry.kind.name] | entry.mode)
