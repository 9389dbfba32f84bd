"""What a draft says of a tree that nothing holds still while it is looked at."""

import os
from pathlib import Path

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.capture.changes import ChangeSet, LinkGroups
from ckptfs.capture.draft import Draft


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
