"""What a draft says of a tree that nothing holds still while it is looked at."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.capture.changes import ChangeSet, LinkGroups
from ckptfs.capture.draft import Draft
from ckptfs.format.manifest import Entry, Kind, Part, merge
from ckptfs.format.rules import check_part, check_tree


def test_a_name_that_has_gone_is_said_once_though_each_other_name_of_its_file_leads_there(tmp_path: Path) -> None:
    tree, draft = tmp_path / "tree", tmp_path / "draft"
    tree.mkdir()
    (draft / "data").mkdir(parents=True)
    (tree / "a").write_text("held")
    os.link(tree / "a", tree / "b")
    ino, links = (tree / "a").stat().st_ino, LinkGroups()
    for name in (b"b", b"gone"):
        links.link(ino, b"a", name)
    root_fd = os.open(tree, os.O_RDONLY)
    changes = ChangeSet({b"a": 2}, {ino})
    known = {b"a", b"b", b"gone"}
    made = Draft(root_fd, draft, changes, known, links, {}, set(), set(), set(), ChangeTimes(), lambda look: 0)
    part = made.describe()
    os.close(root_fd)
    assert [entry.path for entry in part.entries] == [b"a", b"b"]
    assert part.tombstones == (b"gone",)


def removed(tree: Path) -> None:
    shutil.rmtree(tree / "d")


def removed_and_made_anew(tree: Path) -> None:
    shutil.rmtree(tree / "d")
    (tree / "d").mkdir()


def replaced_by_a_file(tree: Path) -> None:
    shutil.rmtree(tree / "d")
    (tree / "d").write_text("")


def given_an_attribute(tree: Path) -> None:
    os.setxattr(tree / "d/new", "user.late", b"1")


@pytest.mark.parametrize("happens", [removed, removed_and_made_anew, replaced_by_a_file, given_an_attribute])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_is_made_of_a_tree_that_changes_meanwhile_is_a_tree(
    tmp_path: Path, happens: Callable[[Path], None], after: int
) -> None:
    root, draft = tmp_path / "tree", tmp_path / "draft"
    (root / "d/unchanged").mkdir(parents=True)
    (draft / "data").mkdir(parents=True)
    (root / "d/unchanged/file").write_text("held")
    (root / "d/new").write_text("new")
    os.link(root / "d/new", root / "d/other")
    before = [
        Entry(path=path, kind=Kind.DIRECTORY, mode=0o755) for path in (b"", b"d", b"d/unchanged", b"d/unchanged/gone")
    ]
    file = Entry(path=b"d/unchanged/file", kind=Kind.FILE, mode=0o644)
    known = {entry.path for entry in (*before, file)}
    ino, links, looked_at = (root / "d/new").stat().st_ino, LinkGroups(), 0
    links.link(ino, b"d/new", b"d/other")

    def look(_: os.stat_result) -> int:
        nonlocal looked_at
        looked_at += 1
        if looked_at == after:
            happens(root)
        return 0

    root_fd = os.open(root, os.O_RDONLY)
    # the last is looked at first
    changes = ChangeSet(dict.fromkeys([b"", b"d", b"d/unchanged/gone", b"d/other", b"d/new"], 7), {ino})
    made = Draft(root_fd, draft, changes, known, links, {}, {ino}, set(), set(), ChangeTimes(), look, names_move=True)
    part = made.describe()
    os.close(root_fd)
    check_part(part, local=True)
    tree = merge([Part((*before, file)), part])
    check_tree(tree)
    assert made.lost <= known | {b"d/new", b"d/other"}
    assert (b"d/unchanged/file" in tree) == (b"d/unchanged/file" not in made.lost)
