"""Every system call on every kind of file behaves on a mount as on the local filesystem (PRODUCT.md 1, "The mount")."""

import contextlib
import fcntl
import functools
import mmap
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptfs import libc
from ckptfs.fs.times import birth_ns
from tests.fs.system_call_cases import ALL_CALLS, TABLES
from tests.fs.system_calls import OWNER, ROOT, Case, Seen, acting_as, call, differences, in_child, make, run_in_child
from tests.fs.system_calls import libc as libc_calls
from tests.mounting import Mount, Mounts, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

# linux/falloc.h and linux/fs.h
_RWF_NOAPPEND = 0x20
_COLLAPSE_RANGE, _INSERT_RANGE = 0x08, 0x20
_GET_FLAGS = 0x80086601
_CLONE = 0x40049409
# linux/inotify.h; an event is watch, mask, cookie, length of the name
_IN_ALL_EVENTS, _IN_OPEN = 0xFFF, 0x20
_EVENT = struct.Struct("iIII")
_ACL = "system.posix_acl_access"
# what saving could get in the way of: contents, link counts, times
WITH_SAVES = ["set_id_bits", "link", "removing", "rename", "sizes", "times"]
# the last tests say what happens instead
_NOT_THROUGH_LIBFUSE = re.compile(r"to \(-1, -1\) as|of 6767 (.* )?as User\(uid=6|^an open directory without a name$")


@functools.cache
def _cases(name: str) -> list[Case]:
    return list(TABLES[name]())


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a table in a directory of the local filesystem, once."""

    @functools.cache
    def run(name: str) -> Seen:
        directory = tmp_path_factory.mktemp(name)
        seen = run_in_child(_cases(name), directory)
        shutil.rmtree(directory)
        return seen

    return run


def _lines(expected: Seen, found: Seen, transport: str) -> list[str]:
    if transport == "fusepy":
        expected = {label: seen for label, seen in expected.items() if not _NOT_THROUGH_LIBFUSE.search(label)}
    return differences(expected, found)


@pytest.mark.parametrize("name", TABLES)
def test_it_is_as_on_the_local_filesystem(name: str, place: Path, native: Any, transport: str) -> None:
    found = run_in_child(_cases(name), place)
    assert not _lines(native(name), found, transport)


@pytest.mark.parametrize("name", WITH_SAVES)
def test_it_is_as_on_the_local_filesystem_while_a_version_is_pending(
    name: str, shared: Mount, place: Path, native: Any, transport: str
) -> None:
    with _held(shared):
        found = run_in_child(_cases(name), place, before=lambda: os.utime(shared.root / ".save"))
    assert not _lines(native(name), found, transport)


@contextlib.contextmanager
def _held(mount: Mount) -> Iterator[None]:
    """Let nothing become durable meanwhile."""
    wait_until(lambda: mount.upload_pid() is not None, 20, "the upload process runs")
    pid = mount.upload_pid() or 0
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_read_only_mount_refuses_as_a_read_only_filesystem_does(mount: Mounts, tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        os.chdir(directory)
        for kind in ("regular", "dir", "fifo", "symlink"):
            make(kind, kind, mode=0o777, owner=OWNER[:1] + OWNER.groups)
        make("regular", "given", owner=OWNER[:1] + OWNER.groups)
        make("dir", "given-dir", owner=OWNER[:1] + OWNER.groups)

    def every_call(directory: Path) -> list[Any]:
        found = []
        for user in (ROOT, OWNER):
            for label, function in ALL_CALLS.items():
                for path in ("regular", "dir", "fifo", "symlink", "missing", "missing/x", "regular/x", "dir/x", "."):
                    os.chdir(directory)
                    with acting_as(user):
                        if label != "list":
                            found.append((label, path, user.uid, call(function, path)))
        return found

    local = tmp_path / "local"
    local.mkdir()
    in_child(lambda: fill(local))
    m = mount()
    in_child(lambda: fill(m.root))
    m.save()
    m.sync()
    m.unmount()
    m = mount(read_only=True, allow_other=True, cache="another")
    subprocess.run(["mount", "--bind", local, local], check=True, timeout=10)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", local], check=True, timeout=10)
        expected = in_child(lambda: every_call(local))
    finally:
        subprocess.run(["umount", local], check=True, timeout=10)
    assert ("truncate", "regular", 0, "EROFS") in expected
    assert in_child(lambda: every_call(m.root)) == expected


# what is different


def test_devices_cannot_be_opened_in_a_mount(place: Path) -> None:
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert stat.S_ISCHR(os.stat(place / "null").st_mode)
    assert call(os.open, place / "null", os.O_RDWR) == "EACCES"


def test_ranges_cannot_be_collapsed_or_inserted_and_a_file_has_no_inode_flags(place: Path) -> None:
    (place / "f").write_bytes(bytes(1 << 20))
    fd = os.open(place / "f", os.O_RDWR)
    for mode in (_COLLAPSE_RANGE, _INSERT_RANGE):
        assert call(libc.fallocate, fd, mode, 0, 1 << 16) == "ENOTSUP"
    assert call(fcntl.ioctl, fd, _GET_FLAGS, bytes(8)) in ("ENOTSUP", "ENOTTY")
    os.close(fd)


def test_extents_are_shared_by_copying_alone_and_no_read_says_that_it_would_wait(place: Path) -> None:
    (place / "f").write_bytes(b"data" * 1024)
    with open(place / "f", "rb") as source, open(place / "copy", "wb") as target:
        assert call(fcntl.ioctl, target, _CLONE, source.fileno()) == "ENOTSUP"
        assert os.copy_file_range(source.fileno(), target.fileno(), 4096) == 4096
        assert call(os.preadv, source.fileno(), [bytearray(9)], 0, os.RWF_NOWAIT) == "ENOTSUP"
    assert (place / "copy").read_bytes() == b"data" * 1024


def test_notices_tell_what_programs_do_and_not_what_a_restore_does(shared: Mount, place: Path) -> None:
    (place / "f").write_text("old")
    version = shared.save()
    shared.sync()
    (place / "f").write_text("new")
    shared.save()
    shared.sync()
    watch = libc_calls.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc_calls.inotify_add_watch(watch, bytes(place), _IN_ALL_EVENTS) > 0
        shared.restore(version)
        assert call(os.read, watch, 4096) == "EAGAIN"
        assert (place / "f").read_text() == "old"
        assert _EVENT.unpack_from(os.read(watch, 4096))[1] == _IN_OPEN, "what came first"
    finally:
        os.close(watch)


def test_what_was_opened_for_its_path_alone_is_lost_with_its_last_name(place: Path, transport: str) -> None:
    (place / "f").touch()
    fd = os.open(place / "f", os.O_PATH)
    (place / "f").unlink()
    assert call(os.fstat, fd) == ("ESTALE" if transport == "passthrough" else "ENOENT")
    os.close(fd)


def test_security_attributes_cannot_be_set(place: Path) -> None:
    (place / "f").touch()
    for name in ("security.selinux", "security.other"):
        assert call(os.setxattr, place / "f", name, b"value") == "ENOTSUP"


def test_direct_io_for_reading_and_writing_asks_for_no_alignment(place: Path) -> None:
    fd = os.open(place / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwrite(fd, b"data", 5) == 4
    assert os.pread(fd, 100, 5) == b"data"
    os.close(fd)


through_libfuse = pytest.mark.parametrize("transport", ["fusepy"], indirect=True, scope="module")


@through_libfuse
def test_through_libfuse_a_chown_that_changes_nothing_does_not_move_ctime(place: Path) -> None:
    path = place / "f"
    path.touch()
    before = path.stat().st_ctime_ns
    os.chown(path, -1, -1)
    assert path.stat().st_ctime_ns == before


@through_libfuse
def test_through_libfuse_setgid_without_group_execution_stays_when_a_stranger_writes(place: Path) -> None:
    path = place / "f"
    path.touch()
    path.chmod(0o6767)

    def write() -> None:
        with acting_as(OWNER):
            with open(path, "r+") as file:
                file.write("x")

    in_child(write)
    assert stat.S_IMODE(path.stat().st_mode) == 0o2767


@through_libfuse
def test_through_libfuse_an_open_directory_or_fifo_that_was_removed_is_not_there(place: Path) -> None:
    (place / "d").mkdir()
    os.mkfifo(place / "p")
    fds = os.open(place / "d", os.O_RDONLY), os.open(place / "p", os.O_RDWR)
    (place / "d").rmdir()
    (place / "p").unlink()
    for fd in fds:
        assert call(os.fstat, fd) == "ENOENT"
        os.close(fd)


@through_libfuse
def test_through_libfuse_rename_has_no_flags_files_have_names_and_holes_look_like_data(place: Path) -> None:
    for name in (b"a", b"b"):
        (place / os.fsdecode(name)).touch()
    here = os.open(place, os.O_RDONLY)
    assert call(libc.renameat2, here, b"a", here, b"b", libc.RENAME_EXCHANGE) == "EINVAL"
    assert call(libc.renameat2, here, b"a", here, b"c", libc.RENAME_NOREPLACE) == "EINVAL"
    os.close(here)
    assert call(os.open, place, os.O_TMPFILE | os.O_RDWR) == "ENOTSUP"
    os.truncate(place / "a", 1 << 20)
    with open(place / "a", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0


@through_libfuse
def test_through_libfuse_an_mtime_that_is_given_before_stores_of_a_mapping_were_synced_is_moved_by_them(
    place: Path,
) -> None:
    path = place / "f"
    path.write_bytes(bytes(8192))
    given_ns = 1_000_000_000_000_000_007
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
        mapping[0] = 1
        mapping.flush()
        os.utime(path, ns=(given_ns, given_ns))
        assert path.stat().st_mtime_ns == given_ns
        mapping[0] = 2
        os.utime(path, ns=(given_ns, given_ns))
        mapping.flush()
        assert path.stat().st_mtime_ns > given_ns


@through_libfuse
def test_through_libfuse_who_has_a_file_open_by_one_name_may_read_what_was_there_before_a_write_by_another(
    place: Path,
) -> None:
    (place / "a").write_bytes(b"before")
    os.link(place / "a", place / "b")
    with (place / "a").open("rb", buffering=0) as file:
        assert file.read() == b"before"
        fd = os.open(place / "b", os.O_WRONLY)
        os.write(fd, b"after!")
        os.close(fd)
        assert os.pread(file.fileno(), 6, 0) == b"before"
        assert (place / "a").read_bytes() == b"after!"
        assert os.pread(file.fileno(), 6, 0) == b"after!"


@through_libfuse
def test_through_libfuse_a_file_that_appends_does_so_though_a_write_says_it_should_not(place: Path) -> None:
    fd = os.open(place / "f", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"0123456789")
    if call(os.pwritev, fd, [b"end"], 0, _RWF_NOAPPEND) != "ENOTSUP":  # before Linux 6.9
        assert os.pread(fd, 100, 0) == b"0123456789end" == (place / "f").read_bytes()
    os.close(fd)


@through_libfuse
def test_through_libfuse_nobody_knows_when_a_file_was_made(place: Path) -> None:
    (place / "f").touch()
    here = os.open(place, os.O_RDONLY)
    assert birth_ns(here, b"f") is None
    os.close(here)


@through_libfuse
def test_through_libfuse_an_access_control_list_is_kept_and_saved_and_only_the_mode_decides(
    shared: Mount, place: Path
) -> None:
    path = place / "f"
    path.touch()
    path.chmod(0o600)
    nobody = 0xFFFFFFFF
    # the owner, OWNER by name, the group, the mask, others (linux/posix_acl_xattr.h)
    entries = ((1, 6, nobody), (2, 6, OWNER.uid), (4, 0, nobody), (16, 6, nobody), (32, 0, nobody))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, _ACL, acl)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660, "the group's bits are the mask"

    def opened() -> Any:
        with acting_as(OWNER):
            return call(os.open, path, os.O_RDONLY)

    assert in_child(opened) == "EACCES"
    version = shared.save()
    shared.sync()
    assert os.getxattr(path, _ACL) == acl
    assert os.getxattr(shared.root / ".versions" / str(version) / place.name / "f", _ACL) == acl
