"""The passthrough transport on a real mount: what is written past us is captured, and opening never gives EIO."""

import ctypes
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.mapping import Mapping
from tests.mounting import Mount, Mounts, wait_until

WAYS = {"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR}
SIZE_BYTES = 64 << 10


@pytest.fixture
def fast(mount: Mounts) -> Mount:
    """A passthrough mount."""
    assert passthrough_obstacle() is None, f"no passthrough here: {passthrough_obstacle()}"
    return mount(transport="passthrough")


def version(fast: Mount, number: int, name: str) -> bytes:
    """Return a file of a version, once that is durable."""
    fast.sync()
    return (fast.root / ".versions" / str(number) / name).read_bytes()


def test_auto_takes_passthrough_where_it_works(mount: Mounts) -> None:
    assert mount().status()["transport"] == "passthrough"


@pytest.mark.parametrize("now", WAYS)
@pytest.mark.parametrize("already", WAYS)
def test_every_pair_of_opens_works_and_a_save_in_between_is_exact(fast: Mount, already: str, now: str) -> None:
    path = fast.root / "f"
    path.write_bytes(b"a" * SIZE_BYTES)
    first = os.open(path, WAYS[already])
    second = os.open(path, WAYS[now])
    try:
        for letter, fd, way in ((b"b", first, already), (b"c", second, now)):
            if way != "read":
                assert os.pwrite(fd, letter * 100, 10) == 100
            expected = path.read_bytes()
            number = fast.save()
            if way != "read":
                assert os.pwrite(fd, b"later", 0) == 5
                assert path.read_bytes()[:5] == b"later"
            assert version(fast, number, "f") == expected
        for fd, way in ((first, already), (second, now)):
            if way != "write":
                assert os.pread(fd, 3, SIZE_BYTES - 3) == b"aaa"
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize("already", ["nothing", *WAYS])
@pytest.mark.parametrize("stays_open", [True, False], ids=["open", "closed"])
def test_stores_into_a_shared_mapping_are_in_the_next_version(fast: Mount, already: str, stays_open: bool) -> None:
    path = fast.root / "f"
    path.write_bytes(bytes(SIZE_BYTES))
    first = os.open(path, WAYS[already]) if already != "nothing" else -1
    fd = os.open(path, os.O_RDWR)
    mapping = Mapping(fd, SIZE_BYTES, writes=True)
    view = mapping.view
    if not stays_open:
        os.close(fd)
    try:
        for step in range(1, 6):
            view[step * 4096 : step * 4096 + 4] = b"%04d" % step
            expected = bytes(view)
            number = fast.save()
            view[0:4] = b"%04d" % step
            assert version(fast, number, "f") == expected, f"step {step}"
    finally:
        mapping.close()
        for descriptor in (first, fd if stays_open else -1):
            if descriptor >= 0:
                os.close(descriptor)


def test_a_mapping_that_outlives_its_handles_and_a_later_handle_see_the_same_bytes(fast: Mount) -> None:
    path = fast.root / "f"
    path.write_bytes(bytes(SIZE_BYTES))
    first, second = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    mapping = Mapping(second, SIZE_BYTES, writes=True)
    os.close(first)
    os.close(second)
    try:
        # closing is told to the server after close(2) returned
        time.sleep(0.3)
        later = os.open(path, os.O_RDWR)
        try:
            for word in (b"once", b"more"):
                mapping.view[0:4] = word
                assert os.pread(later, 4, 0) == word
            os.pwrite(later, b"back", 0)
            assert bytes(mapping.view[0:4]) == b"back"
        finally:
            os.close(later)
    finally:
        mapping.close()


@pytest.mark.parametrize("access", ["write", "both"])
def test_o_append_that_is_taken_off_an_open_file_stays_where_the_kernel_moves_data(fast: Mount, access: str) -> None:
    path = fast.root / "f"
    path.write_bytes(b"0123456789")
    fd = os.open(path, WAYS[access] | os.O_APPEND)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"AB", 0)
    assert path.read_bytes() == (b"0123456789AB" if access == "write" else b"AB23456789")
    os.close(fd)
    fd = os.open(path, WAYS[access])
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    size_bytes = path.stat().st_size
    os.pwrite(fd, b"CD", 0)
    os.close(fd)
    assert path.read_bytes()[size_bytes:] == b"CD"


@pytest.mark.parametrize("already", ["nothing", "read"])
@pytest.mark.parametrize("by", ["name", "descriptor"])
def test_an_mtime_that_is_given_to_a_mapped_file_stays(fast: Mount, already: str, by: str) -> None:
    path = fast.root / "f"
    path.write_bytes(bytes(SIZE_BYTES))
    first = os.open(path, WAYS[already]) if already != "nothing" else -1
    fd = os.open(path, os.O_RDWR)
    mapping = Mapping(fd, SIZE_BYTES, writes=True)
    given_ns = 1_000_000_000_000_000_007
    try:
        mapping.view[4096:4100] = b"data"
        os.utime(path if by == "name" else fd, ns=(given_ns, given_ns))
        expected = bytes(mapping.view)
        number = fast.save()
        assert path.stat().st_mtime_ns == given_ns
    finally:
        mapping.close()
        for descriptor in (first, fd):
            if descriptor >= 0:
                os.close(descriptor)
    assert path.stat().st_mtime_ns == given_ns
    assert version(fast, number, "f") == expected
    assert (fast.root / ".versions" / str(number) / "f").stat().st_mtime_ns == given_ns


def test_a_store_into_the_hole_of_a_mapped_file_is_data(fast: Mount) -> None:
    fd = os.open(fast.root / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE_BYTES)
    mapping = Mapping(fd, SIZE_BYTES, writes=True)
    try:
        mapping.view[8192:8196] = b"data"
        assert os.lseek(fd, 0, os.SEEK_DATA) == 8192
        assert os.lseek(fd, 8192, os.SEEK_HOLE) == 12288
    finally:
        mapping.close()
        os.close(fd)


def test_a_file_written_all_the_time_is_whole_or_said_to_be_torn(fast: Mount) -> None:
    path = fast.root / "log"
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with path.open("wb", buffering=0) as file:
            while not stop.is_set():
                file.write(b"%07d\n" % written)
                written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: written > 0, 60, "something is written")
        for _ in range(5):
            low = written
            number = fast.save()
            high = written
            data = version(fast, number, "log")
            lines = data.splitlines()
            assert low <= len(lines) <= high + 1
            assert [int(line) for line in lines] == list(range(len(lines)))
    finally:
        stop.set()
        writer.join()


def test_a_file_open_for_writing_and_left_alone_is_not_captured_again(fast: Mount) -> None:
    with (fast.root / "log").open("wb", buffering=0) as file:
        file.write(b"line\n" * 1000)
        fast.save()
        fast.sync()
        fast.save()
        fast.sync()
        assert fast.marker()["bytes_uploaded"] == 0
        file.write(b"more\n")
        number = fast.save()
    assert version(fast, number, "log").endswith(b"more\n")


def test_what_is_written_after_a_save_and_before_closing_is_in_the_next(fast: Mount) -> None:
    with (fast.root / "f").open("wb", buffering=0) as file:
        file.write(b"one")
        first = fast.save()
        file.write(b"two")
    second = fast.save()
    assert version(fast, first, "f") == b"one"
    assert version(fast, second, "f") == b"onetwo"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"new"),
        lambda path: os.truncate(path, 10),
        lambda path: _overwrite(path),
        lambda path: _append(path),
        lambda path: (path.with_name("g").write_bytes(b"new"), path.with_name("g").rename(path)),
        lambda path: path.unlink(),
    ],
    ids=["truncate on open", "truncate", "overwrite", "append", "rename over", "unlink"],
)
def test_a_pending_version_keeps_its_bytes(fast: Mount, change: Callable[[Path], object]) -> None:
    path = fast.root / "f"
    path.write_bytes(b"old" * 10000)
    number = fast.save()
    change(path)
    assert version(fast, number, "f") == b"old" * 10000


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"changed")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"appended")


def test_renameat2_flags_are_honoured(fast: Mount) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = fast.root / "a", fast.root / "b"
    a.mkdir()
    (a / "inside").write_text("a")
    b.write_text("b")
    assert libc.renameat2(-100, bytes(a), -100, bytes(b), 1) == -1
    assert ctypes.get_errno() == 17
    assert libc.renameat2(-100, bytes(a), -100, bytes(b), 2) == 0
    assert (b / "inside").read_text() == "a"
    assert a.read_text() == "b"
    number = fast.save()
    assert version(fast, number, "b/inside") == b"a"


def test_directories_with_names_of_the_same_files_are_exchanged(fast: Mount) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = fast.root / "snapshot-1", fast.root / "snapshot-2"
    a.mkdir()
    b.mkdir()
    for number in range(3):
        (a / str(number)).write_text(str(number))
        (b / str(number)).hardlink_to(a / str(number))
    fast.save()
    assert libc.renameat2(-100, bytes(a), -100, bytes(b), 2) == 0
    saved = fast.save()
    assert version(fast, saved, "snapshot-1/1") == version(fast, saved, "snapshot-2/1") == b"1"
    for number in range(3):
        assert (a / str(number)).stat().st_nlink == 2
        (a / str(number)).unlink()
        assert (b / str(number)).stat().st_nlink == 1
        assert (b / str(number)).read_text() == str(number)
        (b / str(number)).unlink()


def test_a_fifo_that_is_open_stays_usable_when_its_name_goes(fast: Mount) -> None:
    for end in (os.unlink, lambda path: os.replace(fast.root / "other", path)):
        path = fast.root / "fifo"
        (fast.root / "other").touch()
        os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR)
        end(path)
        status = os.fstat(fd)
        assert (stat.S_ISFIFO(status.st_mode), status.st_nlink) == (True, 0)
        os.fchmod(fd, 0o640)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
        # cat looks at what it is to read
        with subprocess.Popen(["cat"], stdin=fd, stdout=subprocess.PIPE) as cat:
            os.write(fd, b"text")
            assert cat.stdout is not None
            assert cat.stdout.read(4) == b"text"
            cat.kill()
        os.close(fd)


def test_the_marker_is_exchanged_with_nothing(fast: Mount) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    path = fast.root / "text"
    path.write_text("note")
    before = fast.marker()["version"]
    for flags in (2, 4):
        assert libc.renameat2(-100, bytes(path), -100, bytes(fast.root / ".save"), flags) == -1
        assert ctypes.get_errno() == errno.EINVAL
    assert path.read_text() == "note"
    assert fast.marker()["version"] == before


def test_a_file_without_a_name_can_be_given_one(fast: Mount) -> None:
    fd = os.open(fast.root, os.O_TMPFILE | os.O_WRONLY, 0o644)
    try:
        os.write(fd, b"hidden until whole")
        # os.link follows a symlink only when it is given a directory
        os.link(f"/proc/self/fd/{fd}", fast.root / "whole", src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)
    number = fast.save()
    assert version(fast, number, "whole") == b"hidden until whole"


def test_holes_are_seen_and_kept(fast: Mount) -> None:
    path = fast.root / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"x" * 4096)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 512 << 10
        assert os.lseek(fd, 512 << 10, os.SEEK_HOLE) == (512 << 10) + 4096
    finally:
        os.close(fd)


def test_copy_file_range_copies(fast: Mount) -> None:
    (fast.root / "a").write_bytes(b"0123456789" * 1000)
    source, target = os.open(fast.root / "a", os.O_RDONLY), os.open(fast.root / "b", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        assert os.copy_file_range(source, target, 5000, 10, 0) > 0
    finally:
        os.close(source)
        os.close(target)
    assert (fast.root / "b").read_bytes() == (b"0123456789" * 1000)[10:5010]


def test_attributes_are_remembered_by_the_kernel_and_stay_right(fast: Mount) -> None:
    path = fast.root / "f"
    path.write_bytes(b"12345")
    os.link(path, fast.root / "g")
    assert os.stat(fast.root / "g").st_nlink == 2
    with path.open("ab") as file:
        file.write(b"678")
    assert os.stat(fast.root / "g").st_size == 8
    path.unlink()
    assert os.stat(fast.root / "g").st_nlink == 1


def test_a_restore_is_seen_at_once(fast: Mount) -> None:
    (fast.root / "d").mkdir()
    (fast.root / "d" / "f").write_text("one")
    (fast.root / "gone").write_text("x")
    first = fast.save()
    (fast.root / "d" / "f").write_text("second")
    (fast.root / "gone").unlink()
    (fast.root / "new").write_text("y")
    fast.save()
    fast.sync()
    assert sorted(os.listdir(fast.root)) == ["d", "new"]
    fast.restore(first)
    assert sorted(os.listdir(fast.root)) == ["d", "gone"]
    assert (fast.root / "d" / "f").read_text() == "one"
    assert not (fast.root / "new").exists()
    assert os.stat(fast.root / "d" / "f").st_size == 3


def test_an_unlinked_open_file_lives_on(fast: Mount) -> None:
    path = fast.root / "f"
    with path.open("w+b") as file:
        file.write(b"data")
        file.flush()
        path.unlink()
        status = os.fstat(file.fileno())
        assert (status.st_nlink, status.st_size) == (0, 4)
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 2)
        file.seek(0)
        assert file.read() == b"da"
        assert os.listdir(fast.root) == []


def test_many_threads_make_and_remove_files_while_versions_are_saved(fast: Mount) -> None:
    def work(number: int) -> None:
        for step in range(150):
            path = fast.root / f"w{number}-{step % 7}"
            path.write_bytes(bytes([number]) * (step * 100))
            if step % 3 == 0:
                path.rename(fast.root / f"r{number}-{step % 5}")
            if step % 11 == 0:
                for found in fast.root.glob(f"r{number}-*"):
                    found.unlink()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    numbers = [fast.save() for _ in range(8)]
    for thread in threads:
        thread.join()
    last = fast.save()
    fast.sync()
    assert numbers == list(range(1, 9))
    shown = {path.name: path.read_bytes() for path in fast.root.iterdir()}
    saved = {path.name: path.read_bytes() for path in (fast.root / ".versions" / str(last)).iterdir()}
    assert saved == shown


def test_a_file_says_when_it_was_made(place: Path) -> None:
    def born(name: str) -> float:
        said = subprocess.run(["stat", "-c", "%.9W", place / name], capture_output=True, check=True, timeout=30)
        return float(said.stdout)

    began_s = time.time() - 1
    (place / "f").write_text("x")
    first_s = born("f")
    assert began_s < first_s < time.time() + 1
    os.utime(place / "f", (1, 1))
    os.rename(place / "f", place / "g")
    (place / "g").write_text("more")
    assert born("g") == first_s
    assert born(".save") == 0  # not known


@pytest.mark.parametrize("what", ["os.fsync(os.open('.save', os.O_RDONLY))", "os.utime('.save')"])
def test_a_program_that_waits_for_the_store_can_be_ended(mount: Mounts, what: str) -> None:
    m = mount(transport="passthrough", max_pending_bytes=1)
    wait_until(lambda: m.upload_pid() is not None, 20, "the upload process runs")
    upload_pid = m.upload_pid() or 0
    os.kill(upload_pid, signal.SIGSTOP)
    try:
        (m.root / "f").write_text("x" * 10)
        m.save()
        (m.root / "f").write_text("y" * 10)
        handler = "signal.signal(signal.SIGUSR1, lambda *_: print('caught', flush=True))"
        program = f"import os, signal; {handler}; print('waits', flush=True); {what}"
        waiting = subprocess.Popen(
            [sys.executable, "-c", program], cwd=m.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"waits\n"
        time.sleep(0.5)
        waiting.send_signal(signal.SIGUSR1)  # it has a handler: no reason to give up
        time.sleep(1)
        assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=10)
        assert said.rstrip().endswith(b"KeyboardInterrupt") or b"InterruptedError" in said
        waiting = subprocess.Popen([sys.executable, "-c", f"import os; {what}"], cwd=m.root)
        time.sleep(1)
        assert waiting.poll() is None
        waiting.kill()
        assert waiting.wait(10) == -signal.SIGKILL
    finally:
        os.kill(upload_pid, signal.SIGCONT)
    m.sync()
    assert m.marker()["version"] == 1
