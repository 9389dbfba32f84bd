"""The table of system calls: every call, on every kind of file, as every kind of user; what succeeds and every way to
fail. The expectations are not here: they are what the local filesystem does (system_calls.py).
"""

import ctypes
import fcntl
import functools
import itertools
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fs.system_calls import (
    KINDS,
    MEMBER,
    OTHER,
    OWNER,
    ROOT,
    Case,
    Table,
    User,
    bind,
    call,
    libc,
    look,
    make,
    remove,
)

NOT_LINKS = KINDS[:-1]
NOT_DIRS = tuple(kind for kind in KINDS if kind != "dir")
TABLES: dict[str, Table] = {}
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_NOFOLLOW = 0x100
_DATES = ((1_900_000_000, 0), (1_950_000_000, 123_456_789))


def table(function: Table) -> Table:
    """Register a table under its name."""
    TABLES[function.__name__] = function
    return function


def _do(*steps: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that takes all steps and returns their results."""
    return lambda: [call(step) for step in steps]


def _bound(function: Callable[..., Any], *args: Any, **more: Any) -> Callable[[], Any]:
    return functools.partial(function, *args, **more)


def utimensat(name: str, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """utimensat(2), with nanoseconds that may be UTIME_NOW or UTIME_OMIT."""
    if libc.utimensat(-100, os.fsencode(name), struct.pack("qqqq", *atime, *mtime), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def touch_open(name: str, flags: int, mode: int = 0o644) -> None:
    """Open and close."""
    os.close(os.open(name, flags, mode))


def with_open(name: str, flags: int, *steps: Callable[[int], Any], mode: int = 0o644) -> Any:
    """Take steps with an open file; return their results."""
    fd = os.open(name, flags, mode)
    try:
        return [call(step, fd) for step in steps]
    finally:
        os.close(fd)


def fstat(fd: int) -> Any:
    """Return what fstat says that is the same everywhere."""
    status = os.fstat(fd)
    return stat.filemode(status.st_mode), status.st_nlink, status.st_uid, status.st_gid, status.st_size


# every call that takes a path

ON_EXISTING: dict[str, Callable[[str], Any]] = {
    "stat": lambda p: stat.filemode(os.stat(p).st_mode),
    "lstat": lambda p: stat.filemode(os.lstat(p).st_mode),
    "chmod": lambda p: os.chmod(p, 0o640),
    "chown": lambda p: os.chown(p, 65534, 65533),
    "lchown": lambda p: os.lchown(p, 65534, 65533),
    "truncate": lambda p: os.truncate(p, 123),
    "open for reading": lambda p: touch_open(p, os.O_RDONLY | os.O_NONBLOCK),
    "open for writing": lambda p: touch_open(p, os.O_WRONLY | os.O_NONBLOCK),
    "utimensat": lambda p: utimensat(p, *_DATES),
    "utimensat of a link": lambda p: utimensat(p, *_DATES, _NOFOLLOW),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "readlink": os.readlink,
    "link from": lambda p: os.link(p, "new", follow_symlinks=False),
    "rename from": lambda p: os.rename(p, "new"),
    "list": os.listdir,
    "chdir": os.chdir,
}
MAKING: dict[str, Callable[[str], Any]] = {
    "mkdir": lambda p: os.mkdir(p, 0o755),
    "mkfifo": lambda p: os.mkfifo(p, 0o644),
    "mknod of a file": lambda p: os.mknod(p, 0o644),
    "mknod of a fifo": lambda p: os.mknod(p, stat.S_IFIFO | 0o644),
    "mknod of a character device": lambda p: os.mknod(p, stat.S_IFCHR | 0o644, os.makedev(1, 2)),
    "mknod of a block device": lambda p: os.mknod(p, stat.S_IFBLK | 0o644, os.makedev(1, 2)),
    "symlink": lambda p: os.symlink("test", p),
    "bind": bind,
    "link to": lambda p: os.link("given", p),
    "rename to": lambda p: os.rename("given", p),
    "rename a directory to": lambda p: os.rename("given-dir", p),
    "create": lambda p: touch_open(p, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK),
    "create exclusively": lambda p: touch_open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "create without following": lambda p: touch_open(p, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK),
}
ALL_CALLS = ON_EXISTING | MAKING


def _given() -> None:
    make("regular", "given", owner=(65534, 65534))
    make("dir", "given-dir", owner=(65534, 65534))


@table
def paths_that_lead_nowhere() -> Iterator[Case]:
    """ENOTDIR, ENOENT, ELOOP, ENAMETOOLONG, and the longest name that works."""

    def world() -> None:
        _given()
        for kind in ("regular", "fifo", "block", "char", "socket"):
            make(kind, kind)

    def links() -> None:
        _given()
        for name, target in (("n0", "n1"), ("n1", "n0"), ("dangling", "missing"), ("to-dir", "given-dir")):
            os.symlink(target, name)

    nowhere = ["regular/x", "fifo/x", "block/x", "char/x", "socket/x", "missing/x", "", "x" * 256, "x" * 256 + "/x"]
    for label, function in ALL_CALLS.items():
        yield Case(f"{label} of what cannot be", world, _do(*(_bound(function, path) for path in nowhere)))
        for path in ("missing", "x" * 255, "given/", "given-dir/"):
            shown = path if len(path) < 99 else f"{len(path)} bytes"
            yield Case(f"{label} of {shown!r}", _given, _bound(function, path))
        for path in ("n0", "n0/x", "dangling", "dangling/x", "to-dir", "to-dir/", "to-dir/x"):
            yield Case(f"{label} through links to {path!r}", links, _bound(function, path))
        for path in (".", "..", "given-dir/.", "given-dir/.."):
            if label not in ("rmdir", "unlink", "chown", "chmod", "lchown", "utimensat", "utimensat of a link"):
                yield Case(f"{label} of {path!r}", _given, _bound(function, path))
    yield Case("rmdir of 'given-dir/.'", _given, _bound(os.rmdir, "given-dir/."))
    yield Case("rmdir of 'given-dir/..'", _given, _bound(os.rmdir, "given-dir/.."))
    for label, function in ON_EXISTING.items():
        yield Case(f"{label} of the longest name", _bound(make, "regular", "x" * 255), _bound(function, "x" * 255))


@table
def what_is_there_already() -> Iterator[Case]:
    """EEXIST and its like, for every kind of file in the way; every call on every kind."""

    def world(kind: str) -> None:
        _given()
        make(kind, "n0", owner=(65534, 65533))

    for label, function in ALL_CALLS.items():
        for kind in KINDS:
            if not (label.startswith(("open", "create")) and kind in ("block", "char")):
                yield Case(f"{label} on a {kind}", _bound(world, kind), _bound(function, "n0"))


@table
def permissions_of_directories() -> Iterator[Case]:
    """EACCES: search permission to get there, write permission to make and remove."""

    def world(mode: int, target: str) -> None:
        if target == "new":
            _given()
        os.mkdir("d")
        if target != "new":
            make(target, f"d/{target}", owner=(65534, 65534))
        os.chown("d", 65534, 65534)
        os.chmod("d", mode)
        os.chmod(".", 0o777)

    for label, function in ALL_CALLS.items():
        targets = ("new",) if label in MAKING else ("regular", "dir")
        for target, (user, modes) in itertools.product(
            targets,
            (
                (OWNER, (0o700, 0o600, 0o500)),
                (MEMBER, (0o070, 0o060, 0o050)),
                (OTHER, (0o007, 0o006, 0o005)),
            ),
        ):
            for mode in modes:
                who = f"{user.uid} of {user.groups}"
                yield Case(
                    f"{label} {target} in {mode:o} as {who}",
                    _bound(world, mode, target),
                    _bound(function, f"d/{target}"),
                    user,
                )


@table
def chmod() -> Iterator[Case]:
    """Success of root and owner, refusal of others, set-id bits."""
    for kind in NOT_LINKS:
        for mode in (0o111, 0o7777, 0):
            yield Case(f"{kind} {mode:o}", _bound(make, kind), _do(_bound(os.chmod, "n0", mode), _bound(look, "n0")))
            yield Case(
                f"{kind} {mode:o} through a link",
                _do(_bound(make, kind), _bound(os.symlink, "n0", "n1")),
                _do(_bound(os.chmod, "n1", mode), _bound(look, "n0")),
            )
        if kind in ("block", "char", "socket"):
            continue
        for user, owner, mode in itertools.product(
            (OWNER, MEMBER, OTHER, User(65534, (65533, 65532))),
            ((65534, 65534), (65533, 65532), (0, 0)),
            (0o111, 0o2755, 0o4755, 0o1777, 0o6777),
        ):
            yield Case(
                f"{kind} of {owner} to {mode:o} as {user}",
                _bound(make, kind, owner=owner),
                _bound(os.chmod, "n0", mode),
                user,
            )


@table
def set_id_bits() -> Iterator[Case]:
    """Whoever writes, changes the size or the owner takes them away."""

    def writes(flags: int) -> Any:
        return with_open("n0", flags, lambda fd: os.write(fd, b"x"), fstat)

    ways: dict[str, Callable[[], Any]] = {
        "write": lambda: writes(os.O_WRONLY),
        "write and read": lambda: writes(os.O_RDWR),
        "write of nothing": lambda: with_open("n0", os.O_RDWR, lambda fd: os.write(fd, b""), fstat),
        "append": lambda: writes(os.O_WRONLY | os.O_APPEND),
        "open with O_TRUNC": lambda: with_open("n0", os.O_WRONLY | os.O_TRUNC, fstat),
        "truncate": lambda: os.truncate("n0", 1),
        "truncate to its size": lambda: os.truncate("n0", 4),
        "ftruncate": lambda: with_open("n0", os.O_RDWR, lambda fd: os.ftruncate(fd, 1), fstat),
        "posix_fallocate": lambda: with_open("n0", os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 99), fstat),
        "chown to nobody": lambda: os.chown("n0", -1, -1),
        "chown to itself": lambda: os.chown("n0", os.stat("n0").st_uid, os.stat("n0").st_gid),
        "chown to its group": lambda: os.chown("n0", -1, os.getegid()),
        "link": lambda: os.link("n0", "n1"),
        "utimensat": lambda: utimensat("n0", *_DATES),
    }

    def world(mode: int, owner: tuple[int, int]) -> None:
        Path("n0").write_text("data")
        os.chown("n0", *owner)
        os.chmod("n0", mode)

    for mode, (label, way), user, owner in itertools.product(
        (0o4777, 0o2777, 0o6777, 0o6767),
        ways.items(),
        (ROOT, OWNER, OTHER, User(65534, (65533, 65532))),
        ((0, 0), (65534, 65533)),
    ):
        yield Case(f"{label} of {mode:o} of {owner} as {user}", _bound(world, mode, owner), way, user)

    def without_a_name(change: Callable[[int], Any]) -> Any:
        return with_open("n0", os.O_RDWR, lambda fd: os.unlink("n0"), change, fstat)

    nameless: dict[str, Callable[[int], Any]] = {
        "write": lambda fd: os.write(fd, b"x"),
        "write of nothing": lambda fd: os.write(fd, b""),
        "ftruncate": lambda fd: os.ftruncate(fd, 1),
        "posix_fallocate": lambda fd: os.posix_fallocate(fd, 0, 99),
        "open with O_TRUNC": lambda fd: touch_open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC),
        "fchmod": lambda fd: os.fchmod(fd, 0o6711),
    }
    for mode, (label, change), user in itertools.product(
        (0o6777, 0o6767), nameless.items(), (ROOT, OWNER, OTHER, User(65534, (65533, 65532)))
    ):
        yield Case(
            f"{label} without a name of {mode:o} as {user}",
            _bound(world, mode, (65534, 65533)),
            _bound(without_a_name, change),
            user,
        )


@table
def chown() -> Iterator[Case]:
    """Who may give what to whom, what it does to set-id bits, and ctime."""
    owners = ((123, 456), (0, 0), (-1, -1), (65534, -1), (-1, 65532), (65534, 65531))
    for kind, owner, (new, own), user in itertools.product(
        KINDS, owners, ((False, False), (True, False), (True, True)), (ROOT, User(65534, (65532, 65531)), OWNER)
    ):
        mode = 0o6555 if own else 0o755
        yield Case(
            f"{kind} {'of the caller ' if new else ''}{mode:o} to {owner} as {user}",
            _bound(make, kind, mode=mode, owner=(65534, 65533) if new else (0, 0)),
            _do(_bound(os.lchown, "n0", *owner), _bound(look, "n0")),
            user,
        )
        if kind in ("regular", "dir", "fifo") and not own:
            yield Case(
                f"{kind} {'of the caller ' if new else ''}through a link to {owner} as {user}",
                _do(
                    _bound(make, kind, mode=mode, owner=(65534, 65533) if new else (0, 0)),
                    _bound(os.symlink, "n0", "n1"),
                ),
                _do(_bound(os.chown, "n1", *owner), _bound(look, "n0"), _bound(look, "n1")),
                user,
            )


@table
def making() -> Iterator[Case]:
    """Modes under umasks; owner and group, also in set-group-id directories; times of the new one and its directory."""

    def masked(mask: int, make_it: Callable[[], Any]) -> Any:
        old = os.umask(mask)
        try:
            return call(make_it)
        finally:
            os.umask(old)

    def ways(mode: int) -> dict[str, Callable[[], Any]]:
        return {
            "mkdir": _bound(os.mkdir, "n0", mode),
            "mkfifo": _bound(os.mkfifo, "n0", mode),
            "mknod regular": _bound(os.mknod, "n0", stat.S_IFREG | mode),
            "mknod fifo": _bound(os.mknod, "n0", stat.S_IFIFO | mode),
            "mknod socket": _bound(os.mknod, "n0", stat.S_IFSOCK | mode),
            "mknod char": _bound(os.mknod, "n0", stat.S_IFCHR | mode, os.makedev(1, 2)),
            "mknod block": _bound(os.mknod, "n0", stat.S_IFBLK | mode, os.makedev(4095, 4095)),
            "symlink": _bound(os.symlink, "x" * mode, "n0"),
            "bind": _bound(bind, "n0"),
            "open": _bound(touch_open, "n0", os.O_CREAT | os.O_WRONLY, mode),
            "open exclusively": _bound(touch_open, "n0", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode),
            "open for reading": _bound(touch_open, "n0", os.O_CREAT | os.O_RDONLY, mode),
        }

    def world(mode: int, owner: tuple[int, int]) -> None:
        os.chown(".", *owner)
        os.chmod(".", mode)

    for mask, mode in ((0, 0o755), (0, 0o151), (0o77, 0o151), (0o70, 0o345), (0o501, 0o345), (0, 0o7777), (0o22, 0)):
        for label, way in ways(mode).items():
            yield Case(f"{label} {mode:o} with umask {mask:o}", lambda: None, _bound(masked, mask, way))
    users = (ROOT, OWNER, User(65534, (65533, 65532)), User(65533, (65532,)), MEMBER)
    above_and_owner = (
        (0o777, (65534, 65534)),
        (0o2777, (65534, 65534)),
        (0o2777, (0, 65532)),
        (0o755, (0, 0)),
    )
    for (above, owner), user in itertools.product(above_and_owner, users):
        for mode in (0o644, 0o2775):
            for label, way in ways(mode).items():
                yield Case(
                    f"{label} {mode:o} in {above:o} of {owner} as {user}", _bound(world, above, owner), way, user
                )

    def existing() -> None:
        make("regular", mode=0o600, owner=(65534, 65534))

    for label, way in ways(0o644).items():
        yield Case(f"{label} of what is there", existing, way)
        yield Case(f"{label} of what is there as another user", existing, way, OTHER)


@table
def link() -> Iterator[Case]:
    """Link counts, attributes through every name, ctime; refusals."""

    def three(kind: str) -> None:
        make(kind)
        os.link("n0", "n1", follow_symlinks=False)
        os.link("n1", "n2", follow_symlinks=False)

    names = ("n0", "n1", "n2")
    all_looks = [_bound(look, name) for name in names]
    for kind in NOT_DIRS:
        yield Case(f"{kind}", _bound(make, kind), _bound(os.link, "n0", "n1", follow_symlinks=False))
        yield Case(
            f"three names of a {kind}",
            _bound(three, kind),
            _do(
                *all_looks,
                _bound(os.lchown, "n1", 65534, 65533),
                *all_looks,
                *([] if kind == "symlink" else [_bound(os.chmod, "n1", 0o201)]),
                *all_looks,
                _bound(os.unlink, "n0"),
                *all_looks,
                _bound(os.rename, "n1", "n3"),
                _bound(look, "n3"),
                _bound(os.unlink, "n2"),
                *all_looks,
                _bound(look, "n3"),
            ),
        )
        for step in ("unlink", "rename away", "rename over", "replace"):
            acts = {
                "unlink": _bound(os.unlink, "n1"),
                "rename away": _bound(os.rename, "n1", "n3"),
                "rename over": _bound(os.rename, "n1", "n2"),
                "replace": _do(_bound(make, "regular", "n3"), _bound(os.rename, "n3", "n1")),
            }
            yield Case(f"{step} one of three names of a {kind}", _bound(three, kind), acts[step])
        for user, owner in itertools.product((OWNER, OTHER), ((65534, 65534), (0, 0))):
            for above, mode in itertools.product((0o755, 0o777), (0o644, 0o666, 0o4777, 0o2777)):
                yield Case(
                    f"{kind} {mode:o} of {owner} in {above:o} as {user}",
                    _do(_bound(make, kind, mode=mode, owner=owner), _bound(os.chmod, ".", above)),
                    _bound(os.link, "n0", "n1", follow_symlinks=False),
                    user,
                )
    for user in (ROOT, OWNER):
        yield Case(
            f"directory as {user}",
            _do(_bound(make, "dir", owner=(65534, 65534)), _bound(os.chmod, ".", 0o777)),
            _bound(os.link, "n0", "n1"),
            user,
        )
    yield Case(
        "a new name through an open file",
        _bound(make, "regular"),
        lambda: with_open(
            "n0",
            os.O_RDWR,
            lambda fd: os.link("n0", "n1"),
            fstat,
            lambda fd: os.unlink("n0"),
            fstat,
            lambda fd: look("n1"),
        ),
    )
    yield Case("to another filesystem", _bound(make, "regular"), _bound(os.link, "/proc/version", "n1"))


@table
def removing() -> Iterator[Case]:
    """unlink and rmdir: what goes, link counts and times; open files; what is not empty."""
    for kind in KINDS:
        yield Case(f"remove a {kind}", _bound(make, kind), _bound(remove, "n0"))
        yield Case(f"unlink a {kind}", _bound(make, kind), _bound(os.unlink, "n0"))
        yield Case(f"rmdir a {kind}", _bound(make, kind), _bound(os.rmdir, "n0"))
        yield Case(
            f"rmdir of a directory with a {kind}",
            _do(_bound(os.mkdir, "d"), _bound(make, kind, "d/n0")),
            _bound(os.rmdir, "d"),
        )
        yield Case(
            f"rename over a directory with a {kind}",
            _do(_bound(os.mkdir, "d"), _bound(make, kind, "d/n0"), _bound(os.mkdir, "e")),
            _bound(os.rename, "e", "d"),
        )
        yield Case(f"unlink a {kind} as another user", _bound(make, kind), _bound(remove, "n0"), OTHER)
        if kind != "dir":
            yield Case(
                f"unlink one of two names of a {kind}",
                _do(_bound(make, kind), _bound(os.link, "n0", "n1", follow_symlinks=False)),
                _bound(os.unlink, "n0"),
            )
    yield Case(
        "rmdir of two levels", _bound(os.makedirs, "a/b/c"), _do(_bound(os.rmdir, "a"), _bound(os.rmdir, "a/b/c"))
    )
    yield Case("rmdir of the working directory", lambda: None, _bound(os.rmdir, "."))
    yield Case("rmdir of a mount point", _bound(os.mkdir, "d"), lambda: _mounted("d", lambda: call(os.rmdir, "d")))
    yield Case(
        "rename of a mount point",
        _do(_bound(os.mkdir, "d"), _bound(os.mkdir, "e")),
        lambda: _mounted(
            "d", lambda: (call(os.rename, "d", "x"), call(os.rename, "e", "d"), call(os.rename, "d/x", "x"))
        ),
    )

    def content() -> None:
        Path("n0").write_text("Hello, World!")

    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY):
        yield Case(
            f"an open file without a name {flags}",
            content,
            _bound(
                with_open,
                "n0",
                flags,
                lambda fd: os.unlink("n0"),
                fstat,
                lambda fd: os.pwrite(fd, b"more", 0),
                lambda fd: os.pread(fd, 99, 0),
                fstat,
                lambda fd: os.ftruncate(fd, 2),
                lambda fd: os.fchmod(fd, 0o600),
                lambda fd: os.fchown(fd, 65534, 65533),
                fstat,
            ),
        )
        yield Case(
            f"an open file that is replaced {flags}",
            _do(content, _bound(make, "regular", "n1")),
            _bound(
                with_open,
                "n0",
                flags,
                lambda fd: os.rename("n1", "n0"),
                fstat,
                lambda fd: os.pread(fd, 99, 0),
                lambda fd: os.fchmod(fd, 0o600),
                fstat,
                lambda fd: look("n0"),
            ),
        )
        yield Case(
            f"an open file with a name left {flags}",
            _do(content, _bound(os.link, "n0", "n1")),
            _bound(with_open, "n0", flags, lambda fd: os.unlink("n0"), fstat, lambda fd: look("n1")),
        )
    yield Case(
        "an open directory without a name",
        _bound(os.mkdir, "d"),
        _bound(
            with_open,
            "d",
            os.O_RDONLY,
            lambda fd: os.rmdir("d"),
            fstat,
            lambda fd: os.listdir(fd),
            lambda fd: os.mkdir("x", dir_fd=fd),
            lambda fd: os.fchmod(fd, 0o700),
        ),
    )


def _mounted(path: str, act: Callable[[], Any]) -> Any:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True, timeout=10)
    try:
        return act()
    finally:
        subprocess.run(["umount", path], check=True, timeout=10)


@table
def rename() -> Iterator[Case]:
    """What replaces what, of every kind; times, link counts; impossible places."""
    for kind, over in itertools.product(KINDS, (None, *KINDS)):
        for where in ("", "d/"):

            def world(kind: str = kind, over: str | None = over, where: str = where) -> None:
                os.mkdir("d")
                make(kind, "n0")
                if over is not None:
                    make(over, f"{where}n1")

            yield Case(f"{kind} over {over} in {where or '.'!r}", world, _bound(os.rename, "n0", f"{where}n1"))
            if over is not None and kind != "dir" and over != "dir":
                yield Case(
                    f"{kind} over one of two names of a {over} in {where or '.'!r}",
                    _do(world, _bound(os.link, f"{where}n1", "n2", follow_symlinks=False)),
                    _do(_bound(os.rename, "n0", f"{where}n1"), _bound(look, "n2")),
                )
    for kind in KINDS:
        yield Case(f"{kind} as another user", _bound(make, kind), _bound(os.rename, "n0", "n1"), OTHER)
        yield Case(f"{kind} to itself", _bound(make, kind), _bound(os.rename, "n0", "n0"))
        if kind != "dir":
            yield Case(
                f"two names of a {kind}",
                _do(_bound(make, kind), _bound(os.link, "n0", "n1", follow_symlinks=False)),
                _bound(os.rename, "n0", "n1"),
            )
    tree = _bound(os.makedirs, "a/b/c")
    for old, new in (
        ("a", "a/b"), ("a", "a/x"), ("a", "a/b/c/x"), ("a/b/c", "a"), ("a/b/c", "a/b"), ("a/b/c", "x"), (".", "x"),
        ("a", "."), ("a/.", "x"), ("a/..", "x"), ("a", "a/b/.."), ("a", "a/."), ("a", "x/"), ("a/b", "a/b"),
        ("a/b/", "x/"),
    ):  # fmt: skip
        yield Case(f"{old!r} to {new!r}", tree, _bound(os.rename, old, new))
    yield Case(
        "a directory to another, and the way back up",
        _bound(os.makedirs, "a/b"),
        _do(
            _bound(os.mkdir, "d"),
            _bound(os.rename, "a/b", "d/e"),
            lambda: os.lstat("d/e/..").st_ino == os.lstat("d").st_ino,
            _bound(look, "a"),
            _bound(look, "d"),
            _bound(look, "d/e"),
        ),
    )
    yield Case("to another filesystem", _bound(make, "regular"), _bound(os.rename, "n0", "/proc/x"))
    for user, mode in itertools.product((OWNER, OTHER), (0o700, 0o755, 0o777)):
        yield Case(
            f"a directory {mode:o} of root to another directory as {user}",
            _do(
                *(_do(_bound(os.mkdir, name), _bound(os.chmod, name, 0o777)) for name in ("n2", "n3")),
                _bound(os.mkdir, "n2/n0", mode),
            ),
            _do(
                _bound(os.rename, "n2/n0", "n2/n1"),
                _bound(os.rename, "n2/n1", "n3/n1"),
                _bound(os.rename, "n3/n1", "n3/n2"),
            ),
            user,
        )


@table
def sticky_directories() -> Iterator[Case]:
    """All owners of the directory and of the file in it, by every call that takes the name away."""
    owners = (0, 65534, 65533)
    for kind, above, owner in itertools.product(("regular", "dir", "fifo", "symlink"), owners, owners):

        def world(kind: str = kind, above: int = above, owner: int = owner) -> None:
            for name in ("sticky", "open"):
                os.mkdir(name)
                os.chown(name, above, above)
                os.chmod(name, 0o1777 if name == "sticky" else 0o777)
            make(kind, "sticky/n0", owner=(owner, owner))
            make("dir" if kind == "dir" else "regular", "open/mine", owner=(65534, 65534))

        acts: dict[str, Callable[[], Any]] = {
            "removing": lambda: remove("sticky/n0"),
            "renaming within": lambda: os.rename("sticky/n0", "sticky/n1"),
            "renaming out": lambda: os.rename("sticky/n0", "open/n1"),
            "renaming out over": lambda: os.rename("sticky/n0", "open/mine"),
            "replacing": lambda: os.rename("open/mine", "sticky/n0"),
        }
        for label, act in acts.items():
            yield Case(f"{label} a {kind} of {owner} in one of {above}", world, act, OWNER)


@table
def open_flags() -> Iterator[Case]:
    """open(2) with every flag that matters, on every kind of file, by name and through symlinks."""
    names = ("O_CREAT", "O_EXCL", "O_TRUNC", "O_DIRECTORY", "O_NOFOLLOW")
    combinations = [
        (" ".join(chosen), functools.reduce(lambda a, b: a | b, (getattr(os, name) for name in chosen), 0))
        for count in range(len(names) + 1)
        for chosen in itertools.combinations(names, count)
    ]

    def world(kind: str, link: bool) -> None:
        if kind != "nothing":
            make(kind, "target", mode=0o644)
        if kind == "regular":
            Path("target").write_text("data")
        if link:
            os.symlink("target", "n0")

    kinds = ("nothing", "regular", "dir", "fifo", "socket", "symlink")
    for kind, link in itertools.product(kinds, (False, True)):
        what, name = f"{'through a link to' if link else 'of'} {kind}", "n0" if link else "target"
        harmless = [flags for label, flags in combinations if "CREAT" not in label and "TRUNC" not in label]
        yield Case(
            f"what changes nothing {what}",
            _bound(world, kind, link),
            _do(
                *(
                    _bound(with_open, name, flags | how | os.O_NONBLOCK, fstat)
                    for flags, how in itertools.product(harmless, (os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
                )
            ),
        )
        for (access, how), (label, flags) in itertools.product(
            (("read", os.O_RDONLY), ("write", os.O_WRONLY)), combinations
        ):
            if flags not in harmless:
                yield Case(
                    f"{access} {label} {what}",
                    _bound(world, kind, link),
                    _bound(with_open, name, flags | how | os.O_NONBLOCK, fstat),
                )
    for label, flag in (
        ("O_PATH", os.O_PATH),
        ("O_PATH O_NOFOLLOW", os.O_PATH | os.O_NOFOLLOW),
        ("O_TMPFILE", os.O_TMPFILE),
    ):
        for kind, link in itertools.product(kinds, (False, True)):
            if label != "O_TMPFILE" or kind != "dir":
                yield Case(
                    f"{label} {'through a link to' if link else 'of'} {kind}",
                    _bound(world, kind, link),
                    _bound(with_open, "n0" if link else "target", flag | os.O_RDWR, fstat),
                )


@table
def open_permissions() -> Iterator[Case]:
    """Every mode of a file or fifo, as owner, member of the group and other."""

    def world(kind: str, mode: int) -> None:
        make(kind, mode=mode, owner=(65534, 65534))
        os.chmod(".", 0o777)

    ways = (
        os.O_RDONLY,
        os.O_WRONLY,
        os.O_RDWR,
        os.O_RDONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT,
    )
    for kind, bits, (user, shift) in itertools.product(
        ("regular", "fifo", "dir"), range(8), ((OWNER, 6), (MEMBER, 3), (OTHER, 0))
    ):
        for mode in (bits << shift, 0o777 & ~(7 << shift) | bits << shift):
            yield Case(
                f"{kind} {mode:03o} as {user}",
                _bound(world, kind, mode),
                _do(*(_bound(touch_open, "n0", way | os.O_NONBLOCK) for way in ways)),
                user,
            )
            if kind == "regular":
                yield Case(
                    f"truncate {mode:03o} as {user}", _bound(world, kind, mode), _bound(os.truncate, "n0", 123), user
                )
    for mode in (0, 0o200, 0o400):
        yield Case(
            f"ftruncate of a new file {mode:o}",
            _bound(os.chmod, ".", 0o777),
            _bound(with_open, "n0", os.O_CREAT | os.O_RDWR, lambda fd: os.ftruncate(fd, 9), fstat, mode=mode),
            OWNER,
        )


@table
def sizes() -> Iterator[Case]:
    """truncate, ftruncate, posix_fallocate: sizes, times, and what cannot be."""

    def world(size: int) -> None:
        Path("n0").write_bytes(b"x" * size)

    def ftruncate(size: int, flags: int = os.O_RDWR) -> Any:
        return with_open("n0", flags, lambda fd: os.ftruncate(fd, size), fstat)

    lengths = (0, 1, 567, 12345, 23456, 1234567, -1, -999999, 999999999999999, (1 << 63) - 1)
    for size, length in itertools.product((0, 12345), lengths):
        yield Case(f"truncate {size} to {length}", _bound(world, size), _bound(os.truncate, "n0", length))
        yield Case(f"ftruncate {size} to {length}", _bound(world, size), _bound(ftruncate, length))
        yield Case(
            f"truncate {size} to {length} as another user",
            _bound(world, size),
            _bound(os.truncate, "n0", length),
            OTHER,
        )
    yield Case("ftruncate of what is open for reading", _bound(world, 5), _bound(ftruncate, 0, os.O_RDONLY))
    yield Case("ftruncate of what is open for writing", _bound(world, 5), _bound(ftruncate, 0, os.O_WRONLY))
    for length in (0, 12345):
        yield Case(
            f"O_TRUNC of {length} bytes", _bound(world, length), _bound(touch_open, "n0", os.O_WRONLY | os.O_TRUNC)
        )
        yield Case(
            f"O_TRUNC and O_CREAT of {length} bytes",
            _bound(world, length),
            _bound(touch_open, "n0", os.O_RDWR | os.O_TRUNC | os.O_CREAT),
        )
        for offset, more in ((0, 567), (20000, 3456), (0, 0), (-1, 5), (5, -1), (1 << 62, 1 << 62)):
            yield Case(
                f"posix_fallocate {offset}, {more} of {length} bytes",
                _bound(world, length),
                _bound(with_open, "n0", os.O_RDWR, lambda fd, o=offset, m=more: os.posix_fallocate(fd, o, m), fstat),
            )
    for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
        yield Case(
            f"lseek {whence} before the beginning",
            _bound(world, 9),
            _bound(with_open, "n0", os.O_RDONLY, lambda fd, whence=whence: os.lseek(fd, -10, whence)),
        )
    for text in (b"", b"data"):
        yield Case(
            f"write of {len(text)} bytes",
            _bound(world, 9),
            _bound(with_open, "n0", os.O_RDWR, lambda fd, text=text: os.pwrite(fd, text, 3), fstat),
        )
    yield Case("reading", _bound(world, 9), lambda: Path("n0").read_bytes())
    yield Case("opening with O_CREAT what is there", _bound(world, 9), _bound(touch_open, "n0", os.O_CREAT))
    yield Case(
        "ftruncate of a directory",
        _bound(os.mkdir, "n0"),
        _bound(with_open, "n0", os.O_RDONLY, lambda fd: os.ftruncate(fd, 0)),
    )
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        yield Case(
            f"a running program {flags}", _program, lambda flags=flags: _running(lambda: touch_open("n0", flags))
        )
    yield Case("truncate of a running program", _program, lambda: _running(lambda: os.truncate("n0", 123)))


def _program() -> None:
    shutil.copy("/bin/sleep", "n0")
    os.chmod("n0", 0o755)


def _running(act: Callable[[], Any]) -> Any:
    process = subprocess.Popen(["./n0", "20"])
    try:
        return call(act)
    finally:
        process.kill()
        process.wait()


@table
def times() -> Iterator[Case]:
    """utimensat on every kind, with now and with omissions, as those who may and may not."""
    now, omit, first, second = (0, UTIME_NOW), (0, UTIME_OMIT), *_DATES
    pairs = {
        "both": (first, second),
        "now": (now, now),
        "atime": (first, omit),
        "mtime": (omit, second),
        "atime now": (now, omit),
        "mtime now": (omit, now),
        "neither": (omit, omit),
        "now and a date": (now, second),
        "after 2038": ((1 << 31, 0), (1 << 32, 0)),
        "before 1970": ((-5, 1), (-1, 999_999_999)),
        "too many nanoseconds": ((0, 10**9), (0, 0)),
    }
    for kind, (label, pair) in itertools.product(KINDS, pairs.items()):
        yield Case(f"{label} of a {kind}", _bound(make, kind), _bound(utimensat, "n0", *pair, _NOFOLLOW))
        yield Case(
            f"{label} of a {kind} through a link",
            _do(_bound(make, kind, "test" if kind == "symlink" else "n0"), _bound(os.symlink, "n0", "n1")),
            _bound(utimensat, "n1", *pair),
        )
    for (label, pair), user, owner, mode in itertools.product(
        pairs.items(), (OWNER, MEMBER, OTHER), ((65534, 65534), (0, 0)), (0o644, 0o666, 0o444, 0o464)
    ):
        yield Case(
            f"{label} of {mode:o} of {owner} as {user}",
            _bound(make, "regular", mode=mode, owner=owner),
            _bound(utimensat, "n0", *pair),
            user,
        )


@table
def odds_and_ends() -> Iterator[Case]:
    """Bad addresses, locks that would block, fifos and sockets."""

    def bad_address(name: str, *args: Any) -> Any:
        ctypes.set_errno(0)
        getattr(libc, name)(*args)
        return ctypes.get_errno()

    nowhere = ctypes.c_void_p(-1)
    for name, args in (
        ("chmod", (nowhere, 0o644)), ("chown", (nowhere, 0, 0)), ("mkdir", (nowhere, 0o755)), ("unlink", (nowhere,)),
        ("link", (b"n0", nowhere)), ("link", (nowhere, b"n1")), ("rename", (b"n0", nowhere)),
        ("rename", (nowhere, b"n1")), ("symlink", (b"x", nowhere)), ("symlink", (nowhere, b"n1")),
        ("open", (nowhere, 0)), ("truncate", (nowhere, ctypes.c_long(5))), ("rmdir", (nowhere,)),
        ("mkfifo", (nowhere, 0o644)),
    ):  # fmt: skip
        label = "-".join("x" if isinstance(arg, bytes) else "bad" for arg in args if not isinstance(arg, int))
        yield Case(f"{name} {label}", _bound(make, "regular"), _bound(bad_address, name, *args))

    def locked(kind: int) -> Any:
        return with_open(
            "n0",
            os.O_RDWR,
            lambda fd: fcntl.flock(fd, kind),
            lambda fd: with_open("n0", os.O_RDWR, lambda other: fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)),
            lambda fd: with_open("n0", os.O_RDWR, lambda other: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)),
        )

    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        yield Case(f"flock {kind}", _bound(make, "regular"), _bound(locked, kind))
    for kind, flags in itertools.product(("fifo", "socket"), (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)):
        yield Case(f"open a {kind} {flags}", _bound(make, kind), _bound(touch_open, "n0", flags | os.O_NONBLOCK))


_DEEP = "/".join(["n" * 127] * 31)
"""31 directories of 128 bytes each leave 127 for a name, up to the 4095 that a system call takes."""


def _given_link(length: int) -> None:
    Path("d").mkdir()
    os.symlink("x" * length, "d/n0")


@table
def the_longest_paths() -> Iterator[Case]:
    """Every call on the longest path that works, and on one that is a byte longer."""

    def world() -> None:
        _given()
        here = os.getcwd()
        for name in _DEEP.split("/"):
            os.mkdir(name)
            os.chdir(name)
        for kind, label in itertools.product(("regular", "dir", "symlink"), ON_EXISTING):
            make(kind, f"{kind} {label} ".ljust(127, "x"), owner=(65534, 65534))
        os.chdir(here)

    def every_call() -> Iterator[Any]:
        for label, function in MAKING.items():
            if label == "bind":
                continue  # an address has 107 bytes
            path = f"{_DEEP}/{label} ".ljust(4095, "x")
            yield label, call(function, path), call(look, path), call(remove, path), call(function, path + "x")
            for name, kind in (("given", "regular"), ("given-dir", "dir")):
                if not os.path.lexists(name):
                    make(kind, name)
        for kind, (label, function) in itertools.product(("regular", "dir", "symlink"), ON_EXISTING.items()):
            path = f"{_DEEP}/{kind} {label} ".ljust(4095, "x")
            here = os.getcwd()
            yield kind, label, call(function, path), call(function, path + "x")
            os.chdir(here)
            yield call(look, path), call(remove, path)
            if os.path.lexists("new"):
                remove("new")

    yield Case("one after the other", world, lambda: list(every_call()))
    for length in (255, 256, 1023, 1024, 1025, 3999, 4000, 4001, 4095):
        # longer than any name, but a path that a symlink may hold
        yield Case(
            f"a symlink to a name of {length} bytes",
            _bound(_given_link, length),
            _do(
                _bound(os.stat, "d/n0"),
                _bound(touch_open, "d/n0", os.O_RDWR | os.O_CREAT),
                _bound(os.truncate, "d/n0", 0),
            ),
        )
