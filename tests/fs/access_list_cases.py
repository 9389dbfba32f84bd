"""Access control lists, as a table of system calls (system_calls.py): who is let in by them, what directories hand down
to what is made in them, and what changes them.
"""

import itertools
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fs.system_calls import MEMBER, OTHER, OWNER, Case, User, bind, call, libc, make

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# tags of entries (linux/posix_acl.h); those without an id have -1
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHERS = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF
_STRANGER = User(65500, (65500,))
_IN_OTHER_GROUP = User(65500, (65500, 65501))
_AT_SYMLINK_FOLLOW = 0x400


def list_of(
    owner: int, group: int, others: int, *, user: int | None = None, named: int | None = None, mask: int = 7
) -> bytes:
    """Return a list as an attribute's value (linux/posix_acl_xattr.h); `user` is OTHER, `named` the group 65501."""
    entries = [(_OWNER, owner, _NO_ID)]
    entries += [(_USER, user, OTHER.uid)] if user is not None else []
    entries += [(_GROUP, group, _NO_ID)]
    entries += [(_NAMED_GROUP, named, 65501)] if named is not None else []
    entries += [(_MASK, mask, _NO_ID), (_OTHERS, others, _NO_ID)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


LISTS = {
    "nothing for anybody else": list_of(6, 0, 0, user=6, named=4),
    "less for one than for others": list_of(7, 7, 7, user=0, named=1),
    "masked": list_of(7, 7, 0, user=7, named=7, mask=4),
    "search only": list_of(7, 5, 0, user=1, named=5),
    "no named entries": list_of(6, 4, 0),
}


def lists_of(name: str) -> list[Any]:
    """Return both lists of a name."""
    return [call(os.getxattr, name, which, follow_symlinks=False) for which in (ACCESS, DEFAULT)]


def _tried(name: str) -> list[Any]:
    def opened(flags: int) -> Any:
        os.close(os.open(name, flags | os.O_NONBLOCK))

    ways = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)
    accesses = [os.access(name, how, effective_ids=True) for how in (os.R_OK, os.W_OK, os.X_OK)]
    return [*(call(opened, flags) for flags in ways), *accesses, call(os.truncate, name, 1)]


def access() -> Iterator[Case]:
    """Opening and searching, as everybody whom a list may or may not name."""

    def world(entries: bytes) -> None:
        make("regular", "f", 0o640, (65534, 65534))
        Path("f").write_bytes(b"data")
        make("dir", "d", 0o750, (65534, 65534))
        make("regular", "d/f", 0o666)
        for name in ("f", "d"):
            os.setxattr(name, ACCESS, entries)

    def act() -> list[Any]:
        below = [call(os.listdir, "d"), call(os.stat, "d/missing"), _tried("d/f"), call(os.unlink, "d/f")]
        return [_tried("f"), below, call(os.setxattr, "f", ACCESS, list_of(7, 7, 7)), call(os.removexattr, "f", ACCESS)]

    for (label, entries), user in itertools.product(LISTS.items(), (OWNER, MEMBER, OTHER, _STRANGER, _IN_OTHER_GROUP)):
        yield Case(f"{label} as {user}", lambda entries=entries: world(entries), act, user)


def handing_down() -> Iterator[Case]:
    """All that is made in a directory with a default list, with a umask, by others, with a group that it hands down."""

    def world(entries: bytes, mode: int) -> None:
        os.setxattr(".", DEFAULT, entries)
        os.chown(".", 0, 65501)
        os.chmod(".", mode)

    def masked(make_it: Callable[[], Any]) -> list[Any]:
        old = os.umask(0o27)
        try:
            return [call(make_it), *lists_of("n")]
        finally:
            os.umask(old)

    def touched(mode: int) -> None:
        os.close(os.open("n", os.O_WRONLY | os.O_CREAT, mode))

    def named_later(mode: int) -> None:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, mode)
        libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, b"n", _AT_SYMLINK_FOLLOW)
        os.close(fd)

    ways: dict[str, Callable[[], Any]] = {
        "create 666": lambda: touched(0o666),
        "create 4755": lambda: touched(0o4755),
        "create without a name 666": lambda: named_later(0o666),
        "create without a name 6777": lambda: named_later(0o6777),
        "mkdir": lambda: os.mkdir("n", 0o777),
        "mkdir within": lambda: [os.mkdir("n", 0o777), os.mkdir("n/n", 0o755), lists_of("n/n")],
        "mkfifo": lambda: os.mkfifo("n", 0o666),
        "mknod": lambda: os.mknod("n", stat.S_IFREG | 0o640),
        "bind": lambda: bind("n"),
        "symlink": lambda: os.symlink("x", "n"),
    }
    for (label, entries), (way, act), mode, user in itertools.product(
        LISTS.items(), ways.items(), (0o777, 0o2777), (User(0, (0,)), OTHER, _IN_OTHER_GROUP)
    ):
        yield Case(
            f"{way} in {mode:o} with {label} as {user}",
            lambda entries=entries, mode=mode: world(entries, mode),
            lambda act=act: masked(act),
            user,
        )


def changing() -> Iterator[Case]:
    """What chmod, chown, renaming, linking and the list itself do to a list and to the mode."""

    def world(kind: str, mode: int, owner: tuple[int, int]) -> None:
        make(kind, "n", mode, owner)
        make(kind, "m", 0o640)
        os.setxattr("m", ACCESS, LISTS["masked"])
        os.chmod(".", 0o777)

    ways: dict[str, Callable[[], Any]] = {
        **{
            f"set {label}": lambda entries=entries: os.setxattr("n", ACCESS, entries)
            for label, entries in LISTS.items()
        },
        "set a default one": lambda: os.setxattr("n", DEFAULT, LISTS["masked"]),
        "set a bad one": lambda: os.setxattr("n", ACCESS, b"bad"),
        "set only the mode": lambda: os.setxattr(
            "n", ACCESS, struct.pack("<IHHIHHIHHI", 2, 1, 7, _NO_ID, 4, 1, _NO_ID, 32, 0, _NO_ID)
        ),
        "chmod": lambda: [os.setxattr("n", ACCESS, LISTS["masked"]), os.chmod("n", 0o761), lists_of("n")],
        "chown": lambda: [os.setxattr("n", ACCESS, LISTS["masked"]), call(os.chown, "n", 65534, 65533), lists_of("n")],
        "remove": lambda: [os.setxattr("n", ACCESS, LISTS["masked"]), os.removexattr("n", ACCESS), lists_of("n")],
        "rename over": lambda: [call(os.rename, "m", "n"), lists_of("n")],
        "list names": lambda: [os.setxattr("n", ACCESS, LISTS["masked"]), sorted(os.listxattr("n"))],
    }
    for kind, mode, (label, way), user in itertools.product(
        ("regular", "dir", "fifo"),
        (0o640, 0o2770, 0o6711),
        ways.items(),
        (User(0, (0,)), OWNER, User(65534, (65533, 65532))),
    ):
        yield Case(
            f"{label} of a {kind} {mode:o} as {user}",
            lambda kind=kind, mode=mode: world(kind, mode, (65534, 65532)),
            lambda way=way: [call(way), lists_of("n")],
            user,
        )  # fmt: skip


TABLES = {"access": access, "handing_down": handing_down, "changing": changing}
