"""Making names in a real directory: exact, and never outside it."""

import fcntl
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptfs.errors import CorruptObjectError
from ckptfs.format.manifest import Entry, Hole, Kind, Tree
from ckptfs.transfer.attributes import apply_attributes
from ckptfs.transfer.directories import DirectoryWalker
from ckptfs.transfer.materialize import TreeWriter, materialize
from tests.transfer.trees import directory, snapshot

OURS = {"uid": os.geteuid(), "gid": os.getegid()}


def file(path: bytes, size: int = 0, **options: object) -> Entry:
    fields = {"mode": 0o644, "mtime_ns": 5} | OURS | options
    return Entry(path=path, kind=Kind.FILE, size_bytes=size, extents=(Hole(size),) if size else (), **fields)


def symlink(path: bytes, target: bytes) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o777, target=target, size_bytes=len(target), mtime_ns=7, **OURS)


def tree(*entries: Entry) -> Tree:
    return {entry.path: entry for entry in sorted((directory(), *entries), key=lambda entry: entry.path)}


def test_placeholders_have_the_size_and_attributes_of_the_files_but_no_data(tmp_path: Path) -> None:
    target = tmp_path / "t"
    entries = tree(directory(b"d", 0o500), file(b"d/f", 1 << 40, mode=0o400, mtime_ns=-1_500_000_001))
    materialize(entries, target, placeholder=True)
    status = os.stat(target / "d" / "f")
    assert (status.st_size, status.st_blocks, stat.S_IMODE(status.st_mode)) == (1 << 40, 0, 0o400)
    assert status.st_mtime_ns == -1_500_000_001
    assert stat.S_IMODE(os.stat(target / "d").st_mode) == 0o500


def test_without_placeholders_regular_files_are_left_out(tmp_path: Path) -> None:
    materialize(tree(file(b"f", 10), symlink(b"s", b"f"), directory(b"d")), tmp_path / "t", placeholder=False)
    assert sorted(os.listdir(tmp_path / "t")) == ["d", "s"]


def test_directories_keep_their_times_although_things_are_made_in_them(tmp_path: Path) -> None:
    outer = Entry(path=b"d", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=111, **OURS)
    inner = Entry(path=b"d/e", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=222, **OURS)
    root = Entry(path=b"", kind=Kind.DIRECTORY, mode=0o711, mtime_ns=333, **OURS)
    materialize({b"": root, b"d": outer, b"d/e": inner, b"d/e/f": file(b"d/e/f")}, tmp_path / "t", placeholder=True)
    times = [os.stat(tmp_path / "t" / path).st_mtime_ns for path in ("", "d", "d/e")]
    assert times == [333, 111, 222]
    assert stat.S_IMODE(os.stat(tmp_path / "t").st_mode) == 0o711


def test_hard_links_of_files_symlinks_and_fifos_are_one_inode_each(tmp_path: Path) -> None:
    fifos = [Entry(path=path, kind=Kind.FIFO, mode=0o600, link_id=3, **OURS) for path in (b"p1", b"z/p2")]
    links = [replace(symlink(path, b"x"), link_id=2) for path in (b"s1", b"z/s2")]
    files = [file(path, 5, link_id=1) for path in (b"a", b"z/b", b"z/c")]
    materialize(tree(directory(b"z"), *files, *links, *fifos), tmp_path, placeholder=True)
    for group in ((b"a", b"z/b", b"z/c"), (b"s1", b"z/s2"), (b"p1", b"z/p2")):
        assert len({os.lstat(os.path.join(os.fsencode(tmp_path), path)).st_ino for path in group}) == 1


def test_making_the_same_tree_again_changes_nothing(tmp_path: Path) -> None:
    entries = tree(
        directory(b"d"),
        file(b"d/a", 5, link_id=1),
        file(b"d/b", 5, link_id=1),
        symlink(b"s", b"nowhere"),
        file(b"f", 7),
    )
    materialize(entries, tmp_path, placeholder=True)
    before = snapshot(tmp_path)
    materialize(entries, tmp_path, placeholder=True)
    assert snapshot(tmp_path) == before


def test_a_link_that_is_there_already_is_made_again_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with TreeWriter(tmp_path) as writer:
        writer.make_link(b"b", b"a")
        writer.make_link(b"b", b"a")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert os.stat(tmp_path / "a").st_nlink == 2


def test_a_run_is_alone_only_while_no_other_is_under_way(tmp_path: Path) -> None:
    with TreeWriter(tmp_path) as second:
        with TreeWriter(tmp_path) as first:
            assert first.be_alone()
            assert not second.be_alone()
        with TreeWriter(tmp_path) as third:
            assert not third.be_alone(), "the second is still under way"
    with TreeWriter(tmp_path) as later:
        assert later.be_alone()


def test_a_run_that_began_while_somebody_locked_the_directory_is_known_of(tmp_path: Path) -> None:
    with TreeWriter(tmp_path) as first, TreeWriter(tmp_path) as second:
        fd = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        first.be_alone()
        os.close(fd)
        assert not second.be_alone()


def test_of_runs_that_begin_at_once_one_at_most_is_alone(tmp_path: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        writers = [stack.enter_context(TreeWriter(tmp_path)) for _ in range(200)]
        assert sum(pool.map(TreeWriter.be_alone, writers)) <= 1


@pytest.mark.parametrize("dies", [False, True], ids=["to its end", "killed before each rename"])
def test_with_a_spare_directory_nothing_unready_is_ever_in_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """What takes another's place: a file, a link, a symlink, over a file and over an empty directory."""
    target, spare = tmp_path / "target", tmp_path / "spare"
    (target / "over").mkdir(parents=True)
    spare.mkdir()
    for name in ("file", "first", "second", "link"):
        (target / name).write_bytes(b"old")
    names = {"file", "first", "second", "link", "over"}
    seen: list[set[str]] = []
    rename = os.rename

    class Killed(BaseException):
        pass

    def watched(*arguments: Any, **named: Any) -> None:
        seen.append(set(os.listdir(target)))
        if dies:
            raise Killed
        rename(*arguments, **named)

    monkeypatch.setattr(os, "rename", watched)
    spare_fd = os.open(spare, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for make in (
            lambda writer: writer.make_node(file(b"file", 10)),
            lambda writer: writer.make_link(b"second", b"first"),
            lambda writer: writer.make_link(b"second", b"first"),
            lambda writer: writer.make_node(symlink(b"link", b"first")),
            lambda writer: writer.make_node(file(b"over", 3)),
        ):
            with TreeWriter(target, spare_fd) as writer, suppress(Killed):
                make(writer)
    finally:
        os.close(spare_fd)
    assert len(seen) >= 5
    # an empty directory makes room first
    assert all(names - {"over"} <= each <= names for each in seen)
    assert set(os.listdir(target)) == names
    if not dies:
        assert os.listdir(spare) == []
        assert (target / "file").stat().st_size == 10
        assert (target / "first").samefile(target / "second")
        assert os.readlink(target / "link") == "first"
        assert (target / "over").stat().st_size == 3


@pytest.mark.parametrize("path", [b"../x", b"a/../../x", b"/x", b"a//x", b"./x", b"a/.", b".."])
def test_a_path_that_leads_out_of_the_tree_is_refused(tmp_path: Path, path: bytes) -> None:
    target = tmp_path / "t"
    (target / "a").mkdir(parents=True)
    with pytest.raises(CorruptObjectError), TreeWriter(target) as writer:
        writer.make_node(file(path, 10))
    with pytest.raises(CorruptObjectError), TreeWriter(target) as writer:
        writer.make_directory(directory(path))
    with pytest.raises(CorruptObjectError), TreeWriter(target) as writer:
        writer.create_temporary(path, 1)
    assert sorted(os.listdir(tmp_path)) == ["t"]


def test_a_symlink_of_the_tree_is_not_followed_by_what_is_below_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    hostile = tree(symlink(b"s", os.fsencode(outside)), file(b"s/evil", 4))
    with pytest.raises(OSError, match="s/evil"):
        materialize(hostile, tmp_path / "t", placeholder=True)
    assert os.listdir(outside) == []


def test_a_symlink_in_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "t"
    outside.mkdir()
    (outside / "f").write_text("mine")
    target.mkdir()
    for name in ("d", "f", "fifo"):
        (target / name).symlink_to(outside if name == "d" else outside / "f")
    before = snapshot(outside)
    fifo = Entry(path=b"fifo", kind=Kind.FIFO, mode=0o600, **OURS)
    materialize(tree(directory(b"d", 0o700), file(b"d/new", 3), file(b"f", 9), fifo), target, placeholder=True)
    assert snapshot(outside) == before
    assert not os.path.islink(target / "d")
    assert os.stat(target / "f").st_size == 9


def test_a_symlink_swapped_in_during_the_work_is_not_followed(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "t"
    outside.mkdir()
    stop = threading.Event()
    (target / "d").mkdir(parents=True)
    (tmp_path / "link").symlink_to(outside)

    def swap() -> None:
        while not stop.is_set():
            for first, second in (("t/d", "aside"), ("link", "t/d"), ("t/d", "link"), ("aside", "t/d")):
                try:
                    os.rename(tmp_path / first, tmp_path / second)
                except OSError:
                    pass

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        made = 0
        for number in range(300):
            try:
                with TreeWriter(target) as writer:
                    writer.make_directory(directory(b"d"), keep_existing=True)
                    writer.make_node(file(b"d/f%d" % number, 1))
                    made += 1
            except OSError:
                pass
    finally:
        stop.set()
        swapper.join()
    assert made > 0
    assert os.listdir(outside) == []


def test_a_directory_that_holds_something_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "keep").write_text("mine")
    with pytest.raises(OSError, match=r"Directory not empty: '.*/x'"):
        materialize(tree(file(b"x", 1)), tmp_path, placeholder=True)
    assert (tmp_path / "x" / "keep").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["x"]


def test_an_empty_directory_is_replaced_by_a_file_and_a_file_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").write_text("old")
    materialize(tree(file(b"x", 1), directory(b"y"), file(b"y/z", 2)), tmp_path, placeholder=True)
    assert os.stat(tmp_path / "x").st_size == 1
    assert os.stat(tmp_path / "y" / "z").st_size == 2


def test_a_path_far_beyond_path_max_can_be_made_with_few_descriptors(tmp_path: Path) -> None:
    depth = 800
    names = [b"d%04d" % number for number in range(depth)]
    entries = [directory(b"/".join(names[: number + 1])) for number in range(depth)]
    entries.append(file(b"/".join([*names, b"f"]), 3))
    materialize(tree(*entries), tmp_path, placeholder=True)
    fd = os.open(tmp_path, os.O_RDONLY)
    with DirectoryWalker(fd) as walker:
        bottom = walker.open(b"/".join(names))
        assert os.stat(b"f", dir_fd=bottom).st_size == 3
        assert len(os.listdir("/proc/self/fd")) < 150
        # too deep for pytest's own clean-up
        os.unlink(b"f", dir_fd=bottom)
        for number in range(depth, 0, -1):
            os.rmdir(names[number - 1], dir_fd=walker.open(b"/".join(names[: number - 1])))
    os.close(fd)


def test_the_walker_goes_up_and_down_in_a_deep_tree(tmp_path: Path) -> None:
    names = [b"d%d" % number for number in range(200)]
    fd = os.open(tmp_path, os.O_RDONLY)
    with DirectoryWalker(fd) as walker:
        inodes = {}
        for depth in range(201):
            here = walker.open(b"/".join(names[:depth]))
            inodes[depth] = os.fstat(here).st_ino
            if depth < 200:
                os.mkdir(names[depth], dir_fd=here)
        for depth in (200, 100, 199, 10, 150, 0, 200, 136, 135, 1):
            assert os.fstat(walker.open(b"/".join(names[:depth]))).st_ino == inodes[depth]
    os.close(fd)


def test_xattrs_are_made_exact_including_those_that_must_go(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.old", b"1")
    os.setxattr(path, "user.kept", b"1")
    entry = file(b"f", 1, xattrs=((b"user.kept", b"2"), (b"user.new", b"\0\xff")))
    assert apply_attributes(path, entry) == ()
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {"user.kept": b"2", "user.new": b"\0\xff"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_setuid_survives_the_change_of_owner(tmp_path: Path) -> None:
    materialize(tree(file(b"f", 1, mode=0o6755, uid=1234, gid=5678)), tmp_path, placeholder=True)
    status = os.stat(tmp_path / "f")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, 0o6755)


def test_attributes_are_not_given_to_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to(tmp_path / "t")
    (tmp_path / "t").write_bytes(b"")
    os.utime(tmp_path / "t", ns=(9, 9))
    with pytest.raises(CorruptObjectError, match="not a file on disk"):
        apply_attributes(tmp_path / "s", file(b"s"))
    assert os.stat(tmp_path / "t").st_mtime_ns == 9


def test_an_attribute_that_the_kernel_refuses_is_returned_by_name(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    entry = file(b"f", xattrs=((b"nosuchnamespace.x", b"1"), (b"user.x", b"1")))
    assert apply_attributes(tmp_path / "f", entry) == ("nosuchnamespace.x",)
    assert os.getxattr(tmp_path / "f", "user.x") == b"1"
