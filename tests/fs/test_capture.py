"""A version holds exactly what was there at the moment of the touch, whatever is done while it is pending, and saving
costs what changed (PRODUCT.md 1, "captured").
"""

import errno
import mmap
import os
import random
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from tests.fs.changes import CHANGES, SIZE_BYTES, fill, fill_for_each_change, rewritten_in_place
from tests.fs.holding import Held
from tests.mounting import Mount, Mounts
from tests.snapshot import Snapshot, assert_same, snapshot

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def holder(shared: Mount) -> Held:
    return Held(shared)


def test_a_pending_version_keeps_its_bytes_however_its_files_are_changed(holder: Held, place: Path) -> None:
    files = fill_for_each_change(place)
    with holder.held():
        seen = snapshot(place)
        number = holder.mount.save()
        for name, path in files.items():
            CHANGES[name](path)
        changed = snapshot(place)
        after = holder.mount.save()
    assert_same(seen, holder.version(number, place), "the version before the changes")
    assert_same(changed, holder.version(after, place), "the version after them")
    assert_same(changed, snapshot(place), "the live tree")


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_a_pending_version_keeps_its_bytes_when_written_through_a_handle_from_before(
    flags: int, holder: Held, place: Path
) -> None:
    path = fill(place)
    fd = os.open(path, flags)
    try:
        os.write(fd, b"written before, not closed")
        expected = path.read_bytes()
        with holder.held():
            numbers = [holder.mount.save()]
            os.write(fd, b"written after")
            os.ftruncate(fd, 50)
            numbers.append(holder.mount.save())
            os.write(fd, b"and later")
        later = path.read_bytes()
        numbers.append(holder.mount.save())
    finally:
        os.close(fd)
    holder.mount.sync()
    saved = [holder.saved(n, path).read_bytes() for n in numbers]
    assert saved[0] == expected
    assert len(saved[1]) == 50
    assert saved[1] == (expected[:26] + b"written after" + expected[39:])[:50] or flags & os.O_APPEND
    assert saved[2] == later


def test_a_mapping_is_saved_as_it_is_at_every_touch(holder: Held, place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(SIZE_BYTES))
    fd = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(fd, SIZE_BYTES)
    os.close(fd)
    numbers = []
    with holder.held():
        for turn in range(5):
            mapping[turn * 1000 : turn * 1000 + 4] = b"turn"
            mapping[100_000:100_004] = struct.pack("I", turn)
            numbers.append(holder.mount.save())
    mapping[0:4] = b"past"
    mapping.close()
    for turn, number in enumerate(numbers):
        saved = holder.saved(number, path).read_bytes()
        assert saved[100_000:100_004] == struct.pack("I", turn)
        assert saved.count(b"turn") == turn + 1
    assert path.read_bytes()[:4] == b"past"


def test_a_mapping_is_saved_under_the_name_that_the_file_has_left(holder: Held, place: Path) -> None:
    (place / "first").write_bytes(bytes(10_000))
    (place / "second").hardlink_to(place / "first")
    fd = os.open(place / "first", os.O_RDWR)
    mapping = mmap.mmap(fd, 10_000)
    os.close(fd)
    (place / "first").unlink()
    holder.mount.save()
    mapping[7000:7003] = b"new"
    number = holder.mount.save()
    holder.mount.sync()
    mapping.close()
    assert holder.saved(number, place / "second").read_bytes()[7000:7003] == b"new"


def test_many_pending_versions_are_each_what_was_saved(holder: Held, place: Path) -> None:
    chance = random.Random(7)
    paths = [place / f"file-{number}" for number in range(6)]
    expected: dict[int, dict[str, bytes]] = {}
    with holder.held():
        for _ in range(40):
            path = chance.choice(paths)
            way = chance.choice(("whole", "part", "append", "truncate", "rename", "unlink"))
            if way == "whole" or not path.exists():
                path.write_bytes(chance.randbytes(chance.randrange(1, 50_000)))
            elif way == "part":
                with open(path, "r+b") as file:
                    file.seek(chance.randrange(path.stat().st_size + 1))
                    file.write(chance.randbytes(100))
            elif way == "append":
                with open(path, "ab") as file:
                    file.write(chance.randbytes(1000))
            elif way == "truncate":
                os.truncate(path, path.stat().st_size // 2)
            elif way == "rename":
                path.rename(chance.choice(paths))
            else:
                path.unlink()
            number = holder.mount.save()
            expected[number] = {path.name: path.read_bytes() for path in paths if path.exists()}
    for number, files in expected.items():
        saved = holder.saved(number, place)
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == files, f"version {number}"


def test_a_touch_right_after_a_large_file_protects_it_from_the_next_write(holder: Held, place: Path) -> None:
    """The copy for the pending version takes longer than the touch takes to end."""
    path = place / "large"
    data = random.Random(1).randbytes(1 << 20) * 40
    with holder.held():
        for turn in range(4):
            path.write_bytes(data)
            number = holder.mount.save()
            with open(path, "r+b", buffering=0) as file:
                file.write(b"overwritten at once %d" % turn)
            saving = subprocess.Popen(["touch", ".save"], cwd=place)
            rewritten_in_place(path)
            assert saving.wait(30) == 0
    assert holder.saved(number, path).read_bytes() == data


def test_a_version_is_one_moment_of_all_files(mount: Mounts) -> None:
    """A writer that counts in one file, then in the other, is never seen with the second ahead.

    Through libfuse, where every write is seen; the passthrough transport says of files that are being written at the
    moment of the touch that they may be torn.
    """
    mounted = mount(transport="fusepy")
    fds = [os.open(mounted.root / name, os.O_WRONLY | os.O_CREAT, 0o644) for name in ("first", "second")]
    over = threading.Event()

    def count() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            for fd in fds:
                os.pwrite(fd, struct.pack("Q", turn), 0)

    for fd in fds:
        os.pwrite(fd, struct.pack("Q", 0), 0)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        numbers = [mounted.save() for _ in range(15)]
    finally:
        over.set()
        thread.join(30)
    for fd in fds:
        os.close(fd)
    mounted.sync()
    for number in numbers:
        directory = mounted.root / ".versions" / str(number)
        first, second = (struct.unpack("Q", (directory / name).read_bytes())[0] for name in ("first", "second"))
        assert first - second in (0, 1)


def test_files_made_by_several_threads_while_saves_are_made_are_all_in_the_last_version(
    holder: Held, place: Path
) -> None:
    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(80):
            path = place / f"{number}-{chance.randrange(10)}"
            choice = chance.random()
            if choice < 0.6:
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(b"%d %d" % (number, turn) * chance.randrange(1, 1000))
                temporary.rename(path)
            elif choice < 0.8:
                path.write_bytes(b"%d %d" % (number, turn))
            else:
                path.unlink(missing_ok=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        holder.mount.save()
    for thread in threads:
        thread.join()
    number = holder.mount.save()
    holder.mount.sync()
    live = snapshot(place)
    assert_same(live, holder.version(number, place), "the last version")


# what saving costs


def uploaded(mounted: Mount) -> int:
    """Save; return the bytes that went to the store for it."""
    mounted.save()
    mounted.sync()
    return int(mounted.marker()["bytes_uploaded"])


def test_only_what_changed_is_uploaded(holder: Held, place: Path) -> None:
    size = 9_000_000
    big = place / "big"
    big.write_bytes(random.Random(3).randbytes(size))
    (place / "sub").mkdir()
    assert size <= uploaded(holder.mount) < size + 100_000
    assert uploaded(holder.mount) == 0
    big.rename(place / "renamed")
    assert uploaded(holder.mount) < 5_000
    (place / "renamed").chmod(0o600)
    os.utime(place / "renamed", ns=(1, 2))
    assert uploaded(holder.mount) < 5_000
    (place / "linked").hardlink_to(place / "renamed")
    (place / "renamed").rename(place / "sub" / "deep")
    assert uploaded(holder.mount) < 5_000
    (place / "sub").rename(place / "moved")
    assert uploaded(holder.mount) < 5_000
    shutil.copy(place / "moved" / "deep", place / "copy")
    assert uploaded(holder.mount) < 10_000
    with open(place / "copy", "ab") as file:
        file.write(b"a little")
    assert uploaded(holder.mount) < 5_000_000
    saved = holder.saved(int(holder.mount.marker()["version"]), place)
    assert (saved / "moved" / "deep").read_bytes() == (place / "linked").read_bytes()
    assert (saved / "copy").read_bytes() == (place / "copy").read_bytes()
    assert (saved / "linked").stat().st_nlink == 2


def test_capturing_a_large_file_copies_nothing(holder: Held, place: Path) -> None:
    (place / "large").write_bytes(bytes(200 << 20))
    before = os.statvfs(holder.mount.cache).f_bavail
    with holder.held():
        holder.mount.save()
        used = (before - os.statvfs(holder.mount.cache).f_bavail) * os.statvfs(holder.mount.cache).f_frsize
    (place / "large").unlink()
    assert used < 50 << 20


def test_ctime_and_link_count_do_not_show_what_saving_does(holder: Held, place: Path) -> None:
    path = fill(place)
    (place / "single").write_bytes(b"x" * 1000)
    before = [(status.st_ctime_ns, status.st_nlink) for status in (path.stat(), (place / "single").stat())]
    with holder.held():
        holder.mount.save()
        pending = [(status.st_ctime_ns, status.st_nlink) for status in (path.stat(), (place / "single").stat())]
    after = [(status.st_ctime_ns, status.st_nlink) for status in (path.stat(), (place / "single").stat())]
    assert before == pending == after
    (place / "single").chmod(0o600)
    assert (place / "single").stat().st_ctime_ns > after[1][0]


# files that have no data yet


@pytest.fixture
def stubs(mount: Mounts) -> tuple[Mount, Snapshot]:
    """A mount of a version with an empty cache: nothing has its data; and what the version holds."""
    first = mount()
    fill(first.root)
    (first.root / "directory" / "more").write_bytes(b"more" * 1000)
    first.save()
    seen = snapshot(first.root)
    assert first.unmount() == 0
    return mount(cache="another-cache"), seen


def check_saved(mounted: Mount, mount: Mounts) -> None:
    """Save, and compare what another mount shows of it with what is there."""
    mounted.save()
    mounted.sync()
    reading = mount(name="reading", cache="reading-cache", read_only=True)
    assert_same(snapshot(mounted.root), snapshot(reading.root), "another mount")


def test_a_tree_is_there_at_once_and_reads_as_it_was(stubs: tuple[Mount, Snapshot]) -> None:
    mounted, seen = stubs
    waiting = mounted.status()["not_fetched_files"]
    assert waiting > 0
    for path, node in seen.items():
        status = os.lstat(os.path.join(os.fsencode(mounted.root), path))
        size = status.st_size if node.kind == "-" else 0
        assert (status.st_mtime_ns, size) == (node.mtime_ns, node.size_bytes), path
    assert mounted.status()["not_fetched_files"] == waiting
    assert_same(seen, snapshot(mounted.root), "read")
    assert mounted.status()["not_fetched_files"] == 0


def test_files_without_data_can_be_changed_in_every_way(mount: Mounts) -> None:
    first = mount()
    files = fill_for_each_change(first.root)
    first.save()
    seen = snapshot(first.root)
    assert first.unmount() == 0
    second = mount(cache="another-cache")
    for name, path in files.items():
        CHANGES[name](path)
    check_saved(second, mount)
    attributes = b"given other attributes/directory/model"
    assert snapshot(second.root)[attributes].content == seen[attributes].content
    # what the same changes make of files that have their data
    third = mount(f"{mount.file_store}-2", name="third", cache="third-cache")
    for name, path in fill_for_each_change(third.root).items():
        CHANGES[name](path)
    now, expected = (without_new_times(snapshot(each.root)) for each in (second, third))
    assert_same(expected, now, "as if they had their data")


def without_new_times(tree: Snapshot) -> Snapshot:
    """Leave out times of now: those that are set are older."""
    return {path: node._replace(mtime_ns=min(node.mtime_ns, 1_750_000_000 * 10**9)) for path, node in tree.items()}


def test_moving_files_without_data_fetches_nothing(stubs: tuple[Mount, Snapshot], mount: Mounts) -> None:
    mounted, seen = stubs
    directory = mounted.root / "directory"
    waiting = mounted.status()["not_fetched_files"]
    (directory / "more").rename(directory / "most")
    (directory / "most").chmod(0o640)
    (directory / "again").hardlink_to(directory / "most")
    directory.rename(mounted.root / "elsewhere")
    os.utime(mounted.root / "elsewhere" / "model", ns=(5, 6))
    mounted.save()
    mounted.sync()
    assert mounted.status()["not_fetched_files"] == waiting
    assert mounted.marker()["bytes_uploaded"] < 5000
    check_saved(mounted, mount)
    assert (mounted.root / "elsewhere" / "again").read_bytes() == seen[b"directory/more"].content


def test_tar_reads_files_without_data_without_complaint(stubs: tuple[Mount, Snapshot], tmp_path: Path) -> None:
    mounted, _ = stubs
    tar = ["tar", "-cf", tmp_path / "archive", "."]
    result = subprocess.run(tar, cwd=mounted.root, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


# restoring


def test_a_restored_version_saved_again_is_the_same(mount: Mounts) -> None:
    mounted = mount()
    path = fill(mounted.root)
    first = mounted.save()
    seen = snapshot(mounted.root)
    for turn, name in enumerate(("rewritten in place", "moved with its directory")):
        CHANGES[name](path)
        (mounted.root / f"new-{turn}").write_text("x" * turn)
        mounted.save()
    mounted.sync()
    mounted.restore(first)
    restored = mounted.save()
    mounted.sync()
    assert mounted.marker()["bytes_uploaded"] < 5000
    assert_same(seen, snapshot(mounted.root / ".versions" / str(restored)), "saved after the restore")
    assert_same(seen, snapshot(mounted.root), "the live tree")
    rewritten_in_place(mounted.root / "directory" / "model")
    check_saved(mounted, mount)


def test_going_from_version_to_version_sets_aside_what_was_changed_in_between_and_nothing_else(mount: Mounts) -> None:
    mounted = mount()
    root = mounted.root
    for number in (1, 2, 3):
        for name in ("read", "written", "replaced", "linked"):
            (root / f"{name}.new").write_bytes(bytes([number]) * 100_000)
            (root / f"{name}.new").rename(root / name)
        (root / "further").unlink(missing_ok=True)
        (root / "further").hardlink_to(root / "linked")
        (root / "last").unlink(missing_ok=True)
        (root / "last").symlink_to(f"step-{number}")
        mounted.save()
    mounted.sync()
    for number in (1, 2, 1, 3, 2):
        mounted.restore(number)
        for name in ("read", "written", "replaced", "further"):
            assert (root / name).read_bytes() == bytes([number]) * 100_000
        assert os.readlink(root / "last") == f"step-{number}"
    unsaved = mounted.cache / "unsaved"
    assert list(unsaved.glob("*/*")) == []

    with open(root / "written", "r+b") as file:
        file.write(b"mine")
    (root / "mine").write_bytes(b"all mine")
    (root / "mine").rename(root / "replaced")
    (root / "last").unlink()
    (root / "last").symlink_to("mine")
    mounted.restore(1)
    kept = {path.name: path for path in unsaved.glob("*/*")}
    assert kept.keys() == {"written", "replaced", "last"}
    assert kept["written"].read_bytes() == b"mine" + bytes([2]) * 99_996
    assert kept["replaced"].read_bytes() == b"all mine"
    assert os.readlink(kept["last"]) == "mine"


def test_restoring_what_is_not_there_changes_nothing(holder: Held, place: Path) -> None:
    fill(place)
    holder.mount.save()
    seen = snapshot(place)
    for spec in ("999999", "no-such-tag", "-1", "1.5"):
        with pytest.raises(OSError) as raised:
            holder.mount.restore(spec)
        assert raised.value.errno in (errno.ENOENT, errno.EINVAL)
    assert_same(seen, snapshot(place), "the live tree")


def _as_directory(root: Path) -> None:
    if (root / "latest").is_symlink():
        (root / "latest").unlink()
    (root / "latest").mkdir(exist_ok=True)
    (root / "latest" / "model").write_bytes(b"first")
    (root / "latest" / "nested").mkdir(exist_ok=True)
    (root / "latest" / "nested" / "more").write_bytes(b"more of the first")


def _as_symlink(root: Path) -> None:
    (root / "latest" / "model").write_bytes(b"never saved")
    shutil.rmtree(root / "latest")
    (root / "latest").symlink_to("step-2")


def _with_symlink_target(mounted: Mount) -> None:
    (mounted.root / "step-2" / "nested").mkdir(parents=True)
    (mounted.root / "step-2" / "model").write_bytes(b"second")
    (mounted.root / "step-2" / "nested" / "more").write_bytes(b"more of the second")


def test_a_directory_that_becomes_a_symlink_to_another_with_the_same_names_is_saved_and_restored(mount: Mounts) -> None:
    mounted = mount()
    _with_symlink_target(mounted)
    seen = {}
    for make in (_as_directory, _as_symlink, _as_directory):
        make(mounted.root)
        before = snapshot(mounted.root)
        seen[mounted.save()] = before
        mounted.sync()
    for number in (2, 1, 2, 3, 1):
        (mounted.root / "latest" / "model").write_bytes(b"set aside")
        mounted.restore(number)
        assert_same(seen[number], snapshot(mounted.root), f"the live tree as version {number}")
        again = mounted.save()
        mounted.sync()
        assert_same(seen[number], snapshot(mounted.root / ".versions" / str(again)), f"version {number} saved again")


def test_a_directory_that_another_machine_made_a_symlink_is_one_here(mount: Mounts) -> None:
    one = mount(cache="one")
    _with_symlink_target(one)
    _as_directory(one.root)
    one.save()
    one.unmount()
    for make in (_as_symlink, _as_directory):
        other = mount(cache="other")
        make(other.root)
        expected = snapshot(other.root)
        other.save()
        other.unmount()
        one = mount(cache="one")
        assert_same(expected, snapshot(one.root), "the live tree of the first machine")
        one.unmount()


def test_a_directory_that_became_a_symlink_before_a_crash_is_a_directory_again(mount: Mounts) -> None:
    mounted = mount()
    _with_symlink_target(mounted)
    _as_directory(mounted.root)
    expected = snapshot(mounted.root)
    mounted.save()
    mounted.sync()
    _as_symlink(mounted.root)
    mounted.unmount()
    assert_same(expected, snapshot(mount().root), "the live tree of the next mount")
