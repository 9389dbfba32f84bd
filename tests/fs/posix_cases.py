"""What programs do with files, each as a function of a directory: run on the local filesystem and on a mount, it must
return the same and leave the same behind.

A case returns values only (no times of now, no inode numbers); an OSError that it does not expect is a result as well.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import select
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = Callable[[Path], Any]
CASES: dict[str, Case] = {}
UNPRIVILEGED: dict[str, Case] = {}
"""Cases to run as another user than root."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def case(function: Case) -> Case:
    """Register a case for root."""
    CASES[function.__name__] = function
    return function


def unprivileged(function: Case) -> Case:
    """Register a case for a user who is not root; the directory is the user's own."""
    UNPRIVILEGED[function.__name__] = function
    return function


def outcome(function: Case, directory: Path) -> Any:
    """Return what a case returned, or the errno that it ended with."""
    try:
        return function(directory)
    except OSError as error:
        return f"raised {errno.errorcode.get(error.errno or 0, error.errno)}"


def attempt(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Return what a call returns, or its errno's name."""
    try:
        return call(*args, **more)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error.errno)


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    if _libc.fallocate(fd, mode, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def look(path: Path | str) -> tuple[Any, ...]:
    """Return what lstat says that does not depend on where and when."""
    status = os.lstat(path)
    kind = stat.filemode(status.st_mode)
    size = status.st_size if not stat.S_ISDIR(status.st_mode) else 0
    return kind, status.st_nlink if kind[0] != "d" else 0, status.st_uid, status.st_gid, size


@contextlib.contextmanager
def opened(path: Path | str, flags: int, mode: int = 0o644) -> Any:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


# opening and making


@case
def modes_follow_the_umask(d: Path) -> Any:
    found = []
    for mask in (0, 0o22, 0o77, 0o777):
        old = os.umask(mask)
        try:
            os.close(os.open(d / f"file{mask}", os.O_WRONLY | os.O_CREAT, 0o666))
            os.close(os.open(d / f"odd{mask}", os.O_WRONLY | os.O_CREAT, 0o7751))
            os.mkdir(d / f"dir{mask}", 0o777)
            os.mkfifo(d / f"fifo{mask}", 0o666)
            os.mknod(d / f"node{mask}", stat.S_IFREG | 0o666)
        finally:
            os.umask(old)
        found += [look(d / f"{kind}{mask}") for kind in ("file", "odd", "dir", "fifo", "node")]
    return found


@case
def exclusive_and_missing(d: Path) -> Any:
    (d / "file").write_text("x")
    (d / "dir").mkdir()
    (d / "link").symlink_to("file")
    (d / "dangling").symlink_to("nothing")
    made = os.O_WRONLY | os.O_CREAT
    return [
        attempt(os.open, d / name, flags)
        for name in ("file", "dir", "link", "dangling", "missing/x", "file/x")
        for flags in (
            made | os.O_EXCL,
            os.O_WRONLY | os.O_DIRECTORY,
            os.O_WRONLY | os.O_NOFOLLOW | os.O_EXCL | os.O_CREAT,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_EXCL | os.O_CREAT,
        )
    ] + [attempt(os.open, d / name, os.O_RDWR) for name in ("dir", "dangling", "missing")]


@case
def a_file_made_read_only_can_be_written_by_its_maker(d: Path) -> Any:
    with opened(d / "f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400) as fd:
        os.write(fd, b"data")
        return os.pread(fd, 10, 0), look(d / "f")


@case
def reading_what_is_open_for_writing_only_fails_and_the_other_way_round(d: Path) -> Any:
    (d / "f").write_text("x")
    with opened(d / "f", os.O_WRONLY) as write, opened(d / "f", os.O_RDONLY) as read:
        return attempt(os.read, write, 1), attempt(os.write, read, b"x"), attempt(os.ftruncate, read, 0)


# content


@case
def truncating_at_open_keeps_the_inode(d: Path) -> Any:
    path = d / "f"
    path.write_bytes(b"x" * 10000)
    reader = os.open(path, os.O_RDONLY)
    path.write_bytes(b"short")
    result = os.pread(reader, 100, 0), os.fstat(reader).st_size
    os.close(reader)
    return result


@case
def appending_by_two_handles_keeps_all(d: Path) -> Any:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with opened(d / "log", flags) as a, opened(d / "log", flags) as b:
        for number in range(20):
            os.write(a, b"a%d\n" % number)
            os.write(b, b"b%d\n" % number)
            if number == 10:
                os.truncate(d / "log", 7)
        # POSIX says that the offset counts; Linux appends
        os.pwrite(a, b"at the end", 0)
    return (d / "log").read_bytes()


@case
def appending_by_two_names_keeps_all(d: Path) -> Any:
    (d / "a").write_bytes(b"0123456789")
    os.link(d / "a", d / "b")
    with opened(d / "a", os.O_RDWR | os.O_APPEND) as a, opened(d / "b", os.O_WRONLY | os.O_APPEND) as b:
        for number in range(6):
            os.write((a, b)[number % 2], b"line %d\n" % number * (1 + number * 4000))
        grown = (d / "a").read_bytes()
        os.truncate(d / "a", 5)
        os.write(b, b"end")
        os.write(a, b"END")
    return grown, (d / "a").read_bytes(), (d / "b").read_bytes()


@case
def truncate_and_extend(d: Path) -> Any:
    path = d / "f"
    path.write_bytes(bytes(range(256)) * 40)
    found = []
    for size in (5000, 100, 0, 9000, 4097, 4096, 4095, 100_000):
        os.truncate(path, size)
        found.append((size, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()))
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, 3)
        os.pwrite(fd, b"tail", 10)
        found.append(os.pread(fd, 100, 0))
    (d / "dir").mkdir()
    found += [attempt(os.truncate, d / "dir", 0), attempt(os.truncate, path, -1), attempt(os.truncate, d / "no", 0)]
    return found


@case
def writing_far_out_makes_a_hole(d: Path) -> Any:
    with opened(d / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 5 << 30)
        os.pwrite(fd, b"middle", 1 << 30)
        size = os.fstat(fd).st_size
        blocks = os.fstat(fd).st_blocks
        found = [os.pread(fd, 8, 0), os.pread(fd, 8, 1 << 30), os.pread(fd, 8, 5 << 30), os.pread(fd, 8, 6 << 30)]
    (d / "f").unlink()
    return size, blocks < 100, found


@case
def fallocate_in_its_modes(d: Path) -> Any:
    path = d / "f"
    path.write_bytes(b"x" * 20000)
    found: list[Any] = []
    with opened(path, os.O_RDWR) as fd:
        for mode, offset, size in (
            (PUNCH_HOLE | KEEP_SIZE, 4096, 4096),
            (PUNCH_HOLE | KEEP_SIZE, 100, 50),
            (PUNCH_HOLE | KEEP_SIZE, 19990, 5000),
            (KEEP_SIZE, 0, 50000),
            (0, 20000, 5000),
            (0, 1000, 10),
            (ZERO_RANGE, 9000, 100),
            (ZERO_RANGE, 25000, 100),
            (PUNCH_HOLE, 0, 100),
            (0, 0, 0),
            (0, -1, 10),
        ):
            found.append(attempt(fallocate, fd, mode, offset, size))
            found.append((os.fstat(fd).st_size, hashlib.sha256(os.pread(fd, 100_000, 0)).hexdigest()))
        os.posix_fallocate(fd, 0, 40000)
        found.append(os.fstat(fd).st_size)
    with opened(path, os.O_RDONLY) as fd:
        found.append(attempt(fallocate, fd, 0, 0, 100_000))
    return found


@case
def vectors_and_offsets(d: Path) -> Any:
    with opened(d / "f", os.O_RDWR | os.O_CREAT) as fd:
        written = os.writev(fd, [b"one", b"", b"two", b"three"])
        os.lseek(fd, 2, os.SEEK_SET)
        os.write(fd, b"X")
        buffers = [bytearray(4), bytearray(100)]
        return (
            written,
            os.preadv(fd, buffers, 1),
            bytes(buffers[0]),
            bytes(buffers[1][:7]),
            os.lseek(fd, 0, os.SEEK_CUR),
        )


@case
def direct_io(d: Path) -> Any:
    buffer = mmap.mmap(-1, 65536)
    buffer.write(os.urandom(1) * 65536)
    with opened(d / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
        os.pwrite(fd, buffer, 0)
        os.pwrite(fd, memoryview(buffer)[:4096], 131072)
        back = mmap.mmap(-1, 65536)
        read = os.preadv(fd, [back], 0)
        same = back[:] == buffer[:]
    with opened(d / "f", os.O_RDWR) as cached, opened(d / "f", os.O_RDWR | os.O_DIRECT) as direct:
        os.pwrite(cached, b"cached", 4096)
        back = mmap.mmap(-1, 4096)
        os.preadv(direct, [back], 4096)
        back.seek(0)
        back.write(b"direct")
        os.pwrite(direct, back, 8192)
        found = back[:8][:6], os.pread(cached, 6, 8192), os.pread(cached, 6, 4096)
    size = (d / "f").stat().st_size
    (d / "f").unlink()
    return read, same, found, size


@case
def synchronous_writes(d: Path) -> Any:
    for name, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC)):
        with opened(d / name, os.O_WRONLY | os.O_CREAT | flag) as fd:
            os.write(fd, b"data")
            os.fsync(fd)
            os.fdatasync(fd)
    with opened(d, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    os.sync()


@case
def a_large_file_reads_back(d: Path) -> Any:
    pieces = [hashlib.sha256(b"%d" % n).digest() * 32768 for n in range(12)]
    with open(d / "f", "wb", buffering=0) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
    found = hashlib.sha256((d / "f").read_bytes()).hexdigest()
    (d / "f").unlink()
    return found


@case
def copying_within_the_kernel(d: Path) -> Any:
    data = bytes(range(256)) * 5000
    (d / "a").write_bytes(data)
    with opened(d / "a", os.O_RDONLY) as a, opened(d / "b", os.O_RDWR | os.O_CREAT) as b:
        copied = 0
        while piece := os.copy_file_range(a, b, len(data), copied, copied):
            copied += piece
        os.copy_file_range(a, b, 100, 1000, 7)
    with opened(d / "a", os.O_RDONLY) as a, opened(d / "c", os.O_WRONLY | os.O_CREAT) as c:
        sent = 0
        while piece := os.sendfile(c, a, sent, 1 << 20):
            sent += piece
    subprocess.run(["cp", "--reflink=auto", "--sparse=auto", d / "a", d / "d"], check=True, timeout=30)
    return copied, sent


# mapping


@case
def a_shared_mapping_is_the_file(d: Path) -> Any:
    path = d / "f"
    path.write_bytes(b"." * 20000)
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 20000)
    # the descriptor is closed, the mapping lives
    mapped[5000:5005] = b"hello"
    before = path.read_bytes()[5000:5005]
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"world", 9000)
    through = mapped[9000:9005]
    mapped[12000:12003] = b"end"
    mapped.flush()
    mapped.close()
    return before, through, path.read_bytes()


@case
def a_private_mapping_is_not(d: Path) -> Any:
    path = d / "f"
    path.write_bytes(b"." * 8192)
    with opened(path, os.O_RDONLY) as fd:
        mapped = mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    mapped[0:4] = b"mine"
    found = mapped[0:5], path.read_bytes()[:5]
    mapped.close()
    return found


@case
def a_mapping_grows_and_shrinks_with_its_file(d: Path) -> Any:
    path = d / "f"
    path.write_bytes(b"a" * 4096)
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 4096)
        os.ftruncate(fd, 12288)
        mapped.resize(12288)
        mapped[8192:8196] = b"grew"
        mapped.flush()
        os.ftruncate(fd, 8194)
        size = os.fstat(fd).st_size
        mapped.close()
    return size, path.read_bytes()[-4:]


@case
def numpy_memmap(d: Path) -> Any:
    import numpy

    array = numpy.memmap(d / "array", dtype="float64", mode="w+", shape=(1000, 10))
    array[:] = numpy.arange(10000).reshape(1000, 10)
    array.flush()
    again = numpy.memmap(d / "array", dtype="float64", mode="r+", shape=(1000, 10))
    again[500] = -1
    del again
    return float(array.sum()), float(numpy.fromfile(d / "array").sum())


@case
def sqlite_with_a_write_ahead_log(d: Path) -> Any:
    database = sqlite3.connect(d / "db", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("create table t (a integer primary key, b text)")
    reader = sqlite3.connect(d / "db")
    for number in range(200):
        database.execute("insert into t values (?, ?)", (number, "x" * number))
    counted = reader.execute("select count(*), sum(length(b)) from t").fetchone()
    (check,) = database.execute("pragma integrity_check").fetchone()
    reader.close()
    database.close()
    names = sorted(os.listdir(d))
    (d / "db").unlink()
    return counted, check, names


# names


@case
def renaming(d: Path) -> Any:
    for name in ("a", "b", "over"):
        (d / name).write_text(name)
    for name in ("dir", "empty", "full", "other"):
        (d / name).mkdir()
    (d / "full" / "x").write_text("x")
    (d / "dir" / "sub").mkdir()
    (d / "dir" / "sub" / "f").write_text("deep")
    (d / "link").symlink_to("a")
    rename = os.rename
    found = [
        attempt(rename, d / old, d / new)
        for old, new in (
            ("a", "over"),
            ("b", "b"),
            ("b", "empty"),
            ("dir", "over"),
            ("dir", "full"),
            ("dir", "dir/sub/x"),
            ("dir", "empty"),
            ("empty/sub", "other/moved"),
            ("missing", "x"),
            ("over", "missing/x"),
            ("link", "renamed-link"),
            ("renamed-link", "b"),
            ("over", "over/x"),
            ("full/x", "x"),
            ("other", "full"),
        )
    ]
    return found, (d / "full" / "moved" / "f").read_text()


@case
def renaming_two_names_of_one_file_does_nothing(d: Path) -> Any:
    (d / "a").write_text("x")
    (d / "b").hardlink_to(d / "a")
    os.rename(d / "a", d / "b")
    return sorted(os.listdir(d)), look(d / "a")


@case
def replacing_an_open_file(d: Path) -> Any:
    (d / "old").write_text("old")
    (d / "new").write_text("new!")
    with opened(d / "old", os.O_RDWR) as fd:
        os.rename(d / "new", d / "old")
        os.pwrite(fd, b"still", 0)
        status = os.fstat(fd)
        found = [os.pread(fd, 10, 0), status.st_nlink, status.st_size, (d / "old").read_text(), sorted(os.listdir(d))]
        with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again:
            found.append(os.read(again, 10))
    return found


@case
def an_unlinked_file_lives_while_it_is_open(d: Path) -> Any:
    (d / "sub").mkdir()
    path = d / "sub" / "f"
    path.write_text("data")
    os.setxattr(path, "user.a", b"1")
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    found: list[Any] = [path.exists(), os.listdir(d / "sub"), os.fstat(fd).st_nlink]
    os.pwrite(fd, b"more data", 2)
    os.ftruncate(fd, 8)
    os.fchmod(fd, 0o751)
    os.fchown(fd, 12, 34)
    os.utime(fd, ns=(1, 2))
    os.setxattr(fd, "user.b", b"2")
    os.fsync(fd)
    status = os.fstat(fd)
    found += [status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns]
    found += [os.getxattr(fd, "user.a"), sorted(os.listxattr(fd)), os.pread(fd, 20, 0)]
    os.removexattr(fd, "user.a")
    with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
        os.pwrite(again, b"!", 0)
        found.append(attempt(os.truncate, f"/proc/self/fd/{fd}", 3))
    found += [os.pread(fd, 20, 0), sorted(os.listxattr(fd))]
    found.append(attempt(os.link, f"/proc/self/fd/{fd}", d / "back", follow_symlinks=True))
    # a directory whose only file is open but unlinked is empty
    os.rmdir(d / "sub")
    path.parent.mkdir()
    path.write_text("another")
    found += [os.pread(fd, 20, 0), path.read_text()]
    os.close(fd)
    return found


@case
def unlinking_and_removing(d: Path) -> Any:
    (d / "file").write_text("x")
    (d / "dir").mkdir()
    (d / "full").mkdir()
    (d / "full" / "x").touch()
    (d / "link").symlink_to("dir")
    return [
        attempt(call, d / name)
        for name in ("missing", "dir", "link", "file")
        for call in (os.rmdir if name == "link" else os.unlink,)
    ] + [attempt(os.rmdir, d / name) for name in ("file", "full", "link", "dir", "missing")]


@case
def hard_links_are_one_file(d: Path) -> Any:
    (d / "a").write_text("one")
    (d / "dir").mkdir()
    os.link(d / "a", d / "dir" / "b")
    os.link(d / "a", d / "c")
    found: list[Any] = [look(d / "a"), look(d / "dir" / "b"), os.path.samefile(d / "a", d / "dir" / "b")]
    (d / "dir" / "b").write_text("two")
    found.append((d / "a").read_text())
    os.chmod(d / "c", 0o600)
    os.utime(d / "a", ns=(5, 6))
    os.setxattr(d / "c", "user.x", b"y")
    found += [look(d / "dir" / "b"), (d / "dir" / "b").stat().st_mtime_ns, os.getxattr(d / "a", "user.x")]
    os.rename(d / "a", d / "dir" / "a")
    os.truncate(d / "dir" / "a", 1)
    os.unlink(d / "c")
    found += [look(d / "dir" / "b"), (d / "dir" / "b").read_text()]
    (d / "link").symlink_to("dir/b")
    os.link(d / "link", d / "link2", follow_symlinks=False)
    found += [os.readlink(d / "link2"), look(d / "link2")]
    found += [
        attempt(os.link, d / old, d / new)
        for old, new in (("dir", "x"), ("missing", "x"), ("dir/b", "dir/a"), ("dir/b", "no/x"), ("dir/b", "dir"))
    ]
    return found


@case
def a_file_with_a_name_left_is_written_through_an_unlinked_one(d: Path) -> Any:
    (d / "a").write_text("data")
    os.link(d / "a", d / "b")
    with opened(d / "a", os.O_RDWR) as fd:
        os.unlink(d / "a")
        os.pwrite(fd, b"DA", 0)
        os.fchmod(fd, 0o640)
        found = [os.fstat(fd).st_nlink, (d / "b").read_text(), look(d / "b")]
    return [*found, (d / "b").read_text()]


@case
def symbolic_links(d: Path) -> Any:
    (d / "target").write_text("x")
    for name, target in (
        ("relative", "target"),
        ("absolute", "/etc/hostname"),
        ("dangling", "nowhere/at/all"),
        ("loop", "loop"),
        ("long", "x" * 4095),
        ("bytes", os.fsdecode(b"\xff\xfe\n ")),
    ):
        os.symlink(target, d / name)
    found: list[Any] = [
        (os.readlink(d / name), look(d / name)[4]) for name in sorted(os.listdir(d)) if name != "target"
    ]
    found += [attempt(os.symlink, "x" * 4096, d / "longer"), attempt(os.symlink, "", d / "empty")]
    found += [attempt(os.stat, d / "loop"), attempt(os.readlink, d / "target"), attempt(os.symlink, "x", d / "loop")]
    os.utime(d / "dangling", ns=(1, 2), follow_symlinks=False)
    os.lchown(d / "dangling", 1, 2)
    return [*found, look(d / "dangling"), os.lstat(d / "dangling").st_mtime_ns]


@case
def names_may_hold_any_bytes(d: Path) -> Any:
    top = os.fsencode(d)
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"a b",
        b"-rf",
        b"\x01",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        b"x" * 255,
        b"...",
        b"*",
    ]
    for name in names:
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
    found: list[Any] = [sorted(os.listdir(top))]
    for name in names[:4]:
        os.rename(top + b"/" + name, top + b"/" + name + b"2")
        found.append(os.stat(top + b"/" + name + b"2").st_size)
    return [*found, sorted(os.listdir(top)), attempt(os.mkdir, top + b"/" + b"x" * 256)]


@case
def deep_paths(d: Path) -> Any:
    path = d
    while len(os.fsencode(path)) < 3900:
        path = path / ("n" * 80)
        path.mkdir()
    (path / "f").write_text("deep")
    found = (path / "f").read_text(), os.listdir(path)
    shutil.rmtree(d / ("n" * 80))
    return found, os.listdir(d)


def _build(d: Path) -> list[str]:
    """Make one of everything; return names that lead to it, or nowhere."""
    d.mkdir()
    (d / "moving-file").touch()
    (d / "moving-dir").mkdir()
    (d / "file").write_text("x")
    (d / "dir").mkdir()
    (d / "full").mkdir()
    (d / "full" / "f").write_text("x")
    for name, target in (("to-file", "file"), ("to-dir", "dir"), ("dangling", "nowhere"), ("loop", "loop")):
        (d / name).symlink_to(target)
    os.mkfifo(d / "fifo")
    return [
        *("file", "dir", "full", "to-file", "to-dir", "dangling", "loop", "fifo", "missing", ""),
        *("file/x", "missing/x", "loop/x", "dangling/x", "to-dir/x", "to-file/x", "n" * 256, "n" * 256 + "/x"),
        *("file/", "dir/", "to-dir/", "to-file/", "missing/", "dir/.", "dir/..", "dir//", ".", "x" * 4096),
    ]


@case
def every_call_fails_as_it_should_on_every_kind_of_path(d: Path) -> Any:
    calls: dict[str, Callable[[str], Any]] = {
        "stat": lambda p: stat.filemode(os.stat(p).st_mode),
        "lstat": lambda p: stat.filemode(os.lstat(p).st_mode),
        "read": lambda p: os.close(os.open(p, os.O_RDONLY | os.O_NONBLOCK)),
        "write": lambda p: os.close(os.open(p, os.O_WRONLY | os.O_NONBLOCK)),
        "directory": lambda p: os.close(os.open(p, os.O_RDONLY | os.O_DIRECTORY)),
        "nofollow": lambda p: os.close(os.open(p, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)),
        "make exclusively": lambda p: os.close(os.open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
        "mkdir": os.mkdir,
        "mkfifo": os.mkfifo,
        "symlink": lambda p: os.symlink("x", p),
        "link to": lambda p: os.link(d / "file", p),
        "link from": lambda p: os.link(p, "made", follow_symlinks=False),
        "rename from": lambda p: os.rename(p, "made"),
        "rename file to": lambda p: os.rename("moving-file", p),
        "rename directory to": lambda p: os.rename("moving-dir", p),
        "unlink": os.unlink,
        "rmdir": os.rmdir,
        "truncate": lambda p: os.truncate(p, 5),
        "chmod": lambda p: os.chmod(p, 0o700),
        "chown": lambda p: os.chown(p, 0, 0),
        "lchown": lambda p: os.lchown(p, 0, 0),
        "utime": os.utime,
        "readlink": os.readlink,
        "listdir": lambda p: len(os.listdir(p)),
        "chdir": lambda p: os.chdir(p),
        "access": lambda p: os.access(p, os.R_OK),
        "setxattr": lambda p: os.setxattr(p, "user.x", b"y"),
        "getxattr": lambda p: os.getxattr(p, "user.x"),
        "listxattr": os.listxattr,
        "statvfs": lambda p: os.statvfs(p).f_namemax,
    }
    changing = {"mkdir", "mkfifo", "symlink", "unlink", "rmdir", "truncate", "setxattr", "make exclusively", "write"}
    found = []
    before = os.getcwd()
    world = d / "world"
    names = _build(world)
    try:
        for name in names:
            for label, call in calls.items():
                os.chdir(world)
                result = attempt(call, name)
                found.append((name[:20], label, result))
                succeeded = not (isinstance(result, str) and result.startswith("E"))
                if succeeded and (label in changing or label.startswith(("link", "rename"))):
                    os.chdir(d)
                    shutil.rmtree(world)
                    _build(world)
    finally:
        os.chdir(before)
    return found


# directories


@case
def listing_tells_inode_and_kind(d: Path) -> Any:
    (d / "file").touch()
    (d / "dir").mkdir()
    (d / "link").symlink_to("x")
    os.mkfifo(d / "fifo")
    with os.scandir(d) as entries:
        found = sorted(
            (e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False), e.is_symlink()) for e in entries
        )
    with os.scandir(d) as entries:
        return found, all(entry.inode() == os.lstat(entry.path).st_ino for entry in entries)


@case
def dot_and_dot_dot(d: Path) -> Any:
    (d / "a" / "b").mkdir(parents=True)
    numbers = subprocess.run(["ls", "-aif", d / "a" / "b"], capture_output=True, text=True, check=True, timeout=30)
    found = dict(reversed(line.split()) for line in numbers.stdout.splitlines())
    return (
        found["."] == str((d / "a" / "b").stat().st_ino),
        found[".."] == str((d / "a").stat().st_ino),
        (d / "a" / "b" / "..").stat().st_ino == (d / "a").stat().st_ino,
    )


@case
def deleting_while_listing_meets_every_name_once(d: Path) -> Any:
    top = d / "many"
    top.mkdir()
    for number in range(1500):
        (top / f"{number:05d}").touch()
    seen = []
    with os.scandir(top) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    return len(seen), len(set(seen)), os.listdir(top)


@case
def a_directory_counts_its_subdirectories(d: Path) -> Any:
    found = []
    for name in ("a", "b", "a/c"):
        (d / name).mkdir()
        found.append((d.stat().st_nlink, (d / "a").stat().st_nlink))
    os.rename(d / "a" / "c", d / "c")
    (d / "b").rmdir()
    return [*found, d.stat().st_nlink, (d / "a").stat().st_nlink]


@case
def a_removed_working_directory(d: Path) -> Any:
    (d / "gone").mkdir()
    with opened(d / "gone", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (d / "gone").rmdir()
        return attempt(os.open, "x", os.O_WRONLY | os.O_CREAT, dir_fd=fd), attempt(os.stat, "x", dir_fd=fd)


# attributes


@case
def permission_bits(d: Path) -> Any:
    (d / "f").touch()
    (d / "d").mkdir()
    found = []
    for mode in (0, 0o400, 0o755, 0o1777, 0o2755, 0o4755, 0o6777, 0o7777):
        os.chmod(d / "f", mode)
        os.chmod(d / "d", mode)
        found.append((look(d / "f"), look(d / "d")))
    return found


@case
def owners(d: Path) -> Any:
    (d / "f").touch()
    found = []
    for uid, gid in ((5, 6), (-1, 7), (8, -1), (-1, -1), (0, 0), (4_000_000_000, 4_000_000_001)):
        os.chmod(d / "f", 0o6755)
        os.chown(d / "f", uid, gid)
        found.append(look(d / "f"))
    os.chmod(d / "f", 0o2644)
    os.chown(d / "f", 1, 1)
    return [*found, look(d / "f")]


@case
def a_set_group_directory_hands_its_group_down(d: Path) -> Any:
    (d / "shared").mkdir()
    os.chown(d / "shared", 0, 1234)
    os.chmod(d / "shared", 0o2775)
    (d / "shared" / "sub").mkdir()
    (d / "shared" / "f").touch()
    (d / "shared" / "l").symlink_to("f")
    os.mkfifo(d / "shared" / "p")
    return [look(d / "shared" / name) for name in ("sub", "f", "l", "p")]


@case
def times_to_the_nanosecond(d: Path) -> Any:
    (d / "f").touch()
    found = []
    for times in (
        (1, 2),
        (1_234_567_890_123_456_789, 987_654_321_987_654_321),
        (-5_000_000_001, -1),
        (4_500_000_000_000_000_007, 4_500_000_000_000_000_008),
    ):
        os.utime(d / "f", ns=times)
        status = os.stat(d / "f")
        found.append((status.st_atime_ns, status.st_mtime_ns))
    (d / "sub").mkdir()
    os.utime(d / "sub", ns=(3, 4))
    return [*found, os.stat(d / "sub").st_mtime_ns]


def _utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    times = struct.pack("qqqq", *atime, *mtime)
    if _libc.utimensat(-100, os.fsencode(path), times, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@case
def one_time_at_once(d: Path) -> Any:
    path = d / "f"
    found = []
    for atime, mtime in (
        ((0, UTIME_OMIT), (7, 8)),
        ((7, 8), (0, UTIME_OMIT)),
        ((0, UTIME_NOW), (0, UTIME_OMIT)),
        ((0, UTIME_OMIT), (0, UTIME_NOW)),
        ((0, UTIME_NOW), (7, 8)),
        ((0, UTIME_OMIT), (0, UTIME_OMIT)),
        ((0, UTIME_NOW), (0, UTIME_NOW)),
    ):
        path.write_text("x")
        os.utime(path, ns=(10, 20))
        _utimensat(path, atime, mtime)
        status = os.stat(path)
        found.append(tuple(t if t < 10**15 else "now" for t in (status.st_atime_ns, status.st_mtime_ns)))
    return [*found, attempt(_utimensat, path, (0, 10**9), (0, 0))]


@case
def changes_move_the_times(d: Path) -> Any:
    """Each change moves mtime and ctime of what it changes, and of nothing else."""
    (d / "dir").mkdir()
    file, directory = d / "dir" / "f", d / "dir"
    changes: list[Callable[[], Any]] = [
        lambda: file.write_text("x"),
        lambda: os.chmod(file, 0o600),
        lambda: os.chown(file, 1, 1),
        lambda: os.link(file, d / "dir" / "g"),
        lambda: os.unlink(d / "dir" / "g"),
        lambda: os.rename(file, d / "dir" / "h"),
        lambda: os.rename(d / "dir" / "h", file),
        lambda: os.truncate(file, 0),
        lambda: os.truncate(file, 0),
        lambda: os.setxattr(file, "user.x", b"y"),
        lambda: (d / "dir" / "sub").mkdir(),
        lambda: (d / "dir" / "sub").rmdir(),
        lambda: file.read_bytes(),
        lambda: os.utime(file),
    ]
    file.touch()
    found = []
    for change in changes:
        os.utime(file, ns=(10, 10))
        os.utime(directory, ns=(10, 10))
        before = os.stat(file).st_ctime_ns
        time.sleep(0.01)
        change()
        status = os.stat(file)
        found.append((status.st_mtime_ns != 10, status.st_ctime_ns > before, os.stat(directory).st_mtime_ns != 10))
    return found


@case
def later_changes_look_later(d: Path) -> Any:
    """Whatever sets a time, what is done after it has no earlier one: rotation by mtime relies on it."""
    paths = [d / f"{number}" for number in range(60)]
    for number, path in enumerate(paths):
        if number % 3 == 0:
            path.mkdir()
        elif number % 3 == 1:
            path.write_text("x")
        else:
            path.touch()
            os.utime(path)
    times = [path.stat().st_mtime_ns for path in paths]
    return times == sorted(times)


@case
def extended_attributes(d: Path) -> Any:
    (d / "f").touch()
    (d / "dir").mkdir()
    (d / "link").symlink_to("f")
    found: list[Any] = []
    for path in (d / "f", d / "dir"):
        os.setxattr(path, "user.a", b"1")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.binary", bytes(range(256)))
        os.setxattr(path, b"user.\xff", b"x")
        os.setxattr(path, "user.a", b"22", os.XATTR_REPLACE)
        os.setxattr(path, "trusted.t", b"t")
        found += [
            attempt(os.setxattr, path, "user.a", b"3", os.XATTR_CREATE),
            attempt(os.setxattr, path, "user.new", b"3", os.XATTR_REPLACE),
            attempt(os.setxattr, path, "unknown.a", b"3"),
            attempt(os.setxattr, path, "user." + "n" * 251, b"3"),
            attempt(os.setxattr, path, "user.huge", b"3" * 100_000),
            attempt(os.getxattr, path, "user.none"),
            attempt(os.removexattr, path, "user.none"),
            [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))],
        ]
        os.removexattr(path, "user.a")
        found.append(sorted(os.listxattr(path)))
        buffer = ctypes.create_string_buffer(3)
        found.append(_libc.getxattr(os.fsencode(path), b"user.binary", buffer, 3) and ctypes.get_errno())
        found.append(_libc.getxattr(os.fsencode(path), b"user.binary", None, 0))
        found.append(_libc.listxattr(os.fsencode(path), buffer, 3) and ctypes.get_errno())
    found.append(attempt(os.setxattr, d / "link", "user.a", b"1", follow_symlinks=False))
    found.append(attempt(os.listxattr, d / "link", follow_symlinks=False))
    return found


@case
def the_filesystem_has_room(d: Path) -> Any:
    status = os.statvfs(d)
    return (
        status.f_namemax,
        status.f_blocks > 0,
        0 < status.f_bavail <= status.f_bfree <= status.f_blocks,
        status.f_files > 0,
    )


# special files


@case
def pipes_with_names(d: Path) -> Any:
    os.mkfifo(d / "p", 0o600)
    got = []

    def read() -> None:
        with open(d / "p", "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    with open(d / "p", "wb") as file:
        file.write(b"through the pipe")
    thread.join(10)
    return got, look(d / "p")


@case
def sockets_with_names(d: Path) -> Any:
    before = os.getcwd()
    os.chdir(d)  # a socket's path is at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("s")
            server.listen()
            client.connect("s")
            client.sendall(b"hello")
            connection, _ = server.accept()
            with connection:
                got = connection.recv(10)
    finally:
        os.chdir(before)
    return got, stat.S_ISSOCK(os.stat(d / "s").st_mode)


@case
def device_nodes(d: Path) -> Any:
    os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(d / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    return [(look(d / name)[0], os.stat(d / name).st_rdev) for name in ("null", "disk")]


@case
def programs_run_from_it(d: Path) -> Any:
    script = d / "script"
    script.write_text("#!/bin/sh\necho ran $0 | sed 's,/.*/,,'\n")
    script.chmod(0o755)
    shutil.copy("/bin/sleep", d / "sleep")
    sleeping = subprocess.Popen([d / "sleep", "30"])
    try:
        busy = attempt(os.open, d / "sleep", os.O_WRONLY)
    finally:
        sleeping.kill()
        sleeping.wait()
    return subprocess.run([script], capture_output=True, check=True, timeout=30).stdout, busy


# locks


def _in_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked child, by its repr."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], 10)
    result = os.read(read, 1000).decode() if ready else "hangs"
    os.close(read)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return result


@case
def flock_between_processes(d: Path) -> Any:
    (d / "f").touch()

    def another() -> Any:
        with opened(d / "f", os.O_RDWR) as fd:
            return (
                attempt(fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
                attempt(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
            )

    found = []
    with opened(d / "f", os.O_RDWR) as fd:
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_EX):
            fcntl.flock(fd, kind)
            found.append(_in_child(another))
        os.close(os.open(d / "f", os.O_RDONLY))
        found.append(_in_child(another))
    return [*found, _in_child(another)]


@case
def record_locks_between_processes(d: Path) -> Any:
    (d / "f").write_bytes(b"x" * 100)

    def another() -> Any:
        with opened(d / "f", os.O_RDWR) as fd:
            return [
                attempt(fcntl.lockf, fd, kind | fcntl.LOCK_NB, 10, start)
                for start in (0, 15, 50)
                for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX)
            ]

    found = []
    with opened(d / "f", os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, 10)
        fcntl.lockf(fd, fcntl.LOCK_SH, 10, 50)
        found.append(_in_child(another))
        fcntl.lockf(fd, fcntl.LOCK_UN, 5, 10)
        found.append(_in_child(another))
        # closing any descriptor of the file gives the process's record locks up
        os.close(os.open(d / "f", os.O_RDONLY))
        found.append(_in_child(another))
    return found


@case
def open_file_description_locks(d: Path) -> Any:
    (d / "f").write_bytes(b"x" * 100)
    get, put = 36, 37  # F_OFD_GETLK, F_OFD_SETLK

    def lock(fd: int, kind: int, start: int) -> Any:
        return attempt(fcntl.fcntl, fd, put, struct.pack("hhqqi4x", kind, 0, start, 10, 0)) == "EAGAIN"

    with opened(d / "f", os.O_RDWR) as a, opened(d / "f", os.O_RDWR) as b:
        found = [lock(a, fcntl.F_WRLCK, 0), lock(b, fcntl.F_WRLCK, 5), lock(b, fcntl.F_RDLCK, 20)]
        os.close(os.open(d / "f", os.O_RDONLY))
        found += [lock(b, fcntl.F_WRLCK, 0), lock(a, fcntl.F_RDLCK, 25)]
        held = struct.unpack("hhqqi4x", fcntl.fcntl(b, get, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)))
    return found, held[:4]


@case
def a_waiting_lock_is_given(d: Path) -> Any:
    (d / "f").touch()
    with opened(d / "f", os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        got = threading.Event()

        def wait() -> None:
            with opened(d / "f", os.O_RDWR) as own:
                fcntl.flock(own, fcntl.LOCK_EX)
                got.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        early = got.wait(0.1)
        fcntl.flock(fd, fcntl.LOCK_UN)
        late = got.wait(10)
        thread.join(10)
    return early, late


# several at once


@case
def threads_that_make_rename_and_delete(d: Path) -> Any:
    failures = []

    def work(number: int) -> None:
        try:
            own = d / f"dir{number}"
            own.mkdir()
            for turn in range(60):
                path = own / f"f{turn}"
                path.write_text(f"{number} {turn}")
                os.rename(path, own / "current")
                if turn % 3 == 0:
                    os.link(own / "current", d / f"shared-{number}-{turn}")
                if turn % 5 == 0:
                    (own / "current").unlink()
        except OSError as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return failures, sorted(os.listdir(d)), (d / "dir2" / "current").read_text()


@case
def archives_go_in_and_out(d: Path) -> Any:
    (d / "in" / "sub").mkdir(parents=True)
    for number in range(30):
        (d / "in" / "sub" / f"{number}").write_bytes(b"%d" % number * number)
    os.link(d / "in" / "sub" / "7", d / "in" / "seven")
    (d / "in" / "link").symlink_to("sub/8")
    os.truncate(d / "in" / "sub" / "9", 3_000_000)
    subprocess.run("tar cSf a.tar in && mkdir out && tar xSf a.tar -C out", shell=True, cwd=d, check=True, timeout=30)
    subprocess.run(["cp", "-a", d / "in", d / "copied"], check=True, timeout=30)
    subprocess.run(["rsync", "-aHS", f"{d}/in/", f"{d}/synced"], check=True, timeout=30)
    subprocess.run(["mv", d / "copied", d / "moved"], check=True, timeout=30)
    os.unlink(d / "a.tar")
    return subprocess.run(["diff", "-r", d / "in", d / "out" / "in"], capture_output=True, timeout=30).stdout


# as another user


@unprivileged
def a_users_files_are_the_users(d: Path) -> Any:
    (d / "f").write_text("x")
    (d / "sub").mkdir()
    (d / "link").symlink_to("f")
    os.mkfifo(d / "p")
    return [look(d / name) for name in ("f", "sub", "link", "p")]


@unprivileged
def permissions_are_checked(d: Path) -> Any:
    (d / "f").write_text("x")
    (d / "dir").mkdir()
    (d / "dir" / "f").write_text("x")
    found = []
    for mode in (0o000, 0o200, 0o400, 0o500):
        os.chmod(d / "f", mode)
        os.chmod(d / "dir", mode)
        found += [
            attempt(lambda: (d / "f").read_text()),
            attempt(lambda: (d / "f").write_text("y")),
            attempt(os.truncate, d / "f", 1),
            attempt(os.listdir, d / "dir"),
            attempt(lambda: (d / "dir" / "f").read_text()),
            attempt(lambda: (d / "dir" / "g").touch()),
            attempt(os.unlink, d / "dir" / "f"),
            attempt(os.rename, d / "dir" / "f", d / "g"),
            [os.access(d / "f", how) for how in (os.R_OK, os.W_OK, os.X_OK)],
            attempt(os.setxattr, d / "f", "user.x", b"y"),
            attempt(os.getxattr, d / "f", "user.x"),
        ]
    os.chmod(d / "dir", 0o700)
    return found


@unprivileged
def only_an_owner_may_change_attributes(d: Path) -> Any:
    (d / "f").write_text("x")
    os.chmod(d / "f", 0o4755)
    found = [
        attempt(os.chown, d / "f", 0, -1),
        attempt(os.chown, d / "f", -1, 0),
        attempt(os.chown, d / "f", -1, os.getgid()),
        look(d / "f"),
    ]
    for target in ("..", "../of-root"):
        path = d / target
        found += [attempt(os.chmod, path, 0o777), attempt(os.utime, path, (1, 1)), attempt(os.utime, path)]
        found += [attempt(os.setxattr, path, "user.x", b"y")]
    return [*found, attempt(os.open, d / "../of-root", os.O_WRONLY), attempt(os.unlink, d / "../of-root")]


@unprivileged
def writing_takes_setuid_away(d: Path) -> Any:
    found = []
    for how in ("write", "append", "truncate", "ftruncate", "chown", "fallocate", "mmap", "empty write"):
        path = d / how
        path.write_bytes(b"x" * 5000)
        os.chmod(path, 0o6777)
        if how == "truncate":
            os.truncate(path, 2)
        elif how == "chown":
            os.chown(path, -1, os.getgid())
        else:
            with opened(path, os.O_RDWR | (os.O_APPEND if how == "append" else 0)) as fd:
                if how == "ftruncate":
                    os.ftruncate(fd, 2)
                elif how == "fallocate":
                    fallocate(fd, 0, 0, 10000)
                elif how == "mmap":
                    mapped = mmap.mmap(fd, 5000)
                    mapped[0] = 1
                    mapped.close()
                else:
                    os.write(fd, b"" if how == "empty write" else b"y")
        found.append((how, stat.filemode(path.stat().st_mode)))
    return found


@unprivileged
def a_sticky_directory_protects_others_files(d: Path) -> Any:
    sticky = d / "../sticky"
    (sticky / "mine").write_text("x")
    return (
        attempt(os.unlink, sticky / "of-root"),
        attempt(os.rename, sticky / "of-root", sticky / "x"),
        attempt(os.rename, sticky / "mine", sticky / "of-root"),
        attempt(os.rename, sticky / "mine", sticky / "mine2"),
        attempt(os.unlink, sticky / "mine2"),
    )


@unprivileged
def a_set_group_directory_hands_its_group_to_users_too(d: Path) -> Any:
    shared = d / "../shared"
    (shared / "f").touch()
    (shared / "sub").mkdir()
    os.close(os.open(shared / "bits", os.O_WRONLY | os.O_CREAT, 0o2777))
    os.chmod(shared / "f", 0o2755)
    found = [look(shared / name) for name in ("f", "sub", "bits")]
    return found
