"""Whom files of versions belong to, in mounts of ordinary users."""

import os
from typing import cast

import pytest

from ckptfs.format.manifest import Entry, Kind
from ckptfs.fs.hydration.contents import ContentCache
from ckptfs.fs.tree_view import TreeView, owners_for
from tests.fs.system_calls import in_child

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

SAVED_BY, READER, GROUP, ELSEWHERE = 4001, 4002, 4003, 4004


def shown_to(user: int, *, allow_other: bool) -> dict[str, tuple[int, int]]:
    """Return whom a version's files are shown to belong to, by a mount of a user."""

    def look() -> dict[str, tuple[int, int]]:
        os.setgroups([GROUP])
        os.setgid(user)
        os.setuid(user)
        tree = {
            path: Entry(path=path, kind=Kind.FILE, mode=0o600, uid=SAVED_BY, gid=gid)
            for path, gid in ((b"private", SAVED_BY), (b"shared", GROUP), (b"elsewhere", ELSEWHERE))
        }
        view = TreeView(tree, 1, cast(ContentCache, None), owners=owners_for(allow_other=allow_other))
        shown = {path: view.attributes(path) for path in (b"", *tree)}
        return {path.decode(): (each.uid, each.gid) for path, each in shown.items()}

    return in_child(look)


def test_a_user_who_lets_nobody_else_in_owns_what_versions_hold_as_if_it_was_restored() -> None:
    expected = {
        "": (READER, READER),
        "private": (READER, READER),
        "shared": (READER, GROUP),
        "elsewhere": (READER, READER),
    }
    assert shown_to(READER, allow_other=False) == expected


@pytest.mark.parametrize(("user", "allow_other"), [(READER, True), (0, False), (0, True)])
def test_others_and_root_see_whom_the_version_names(user: int, allow_other: bool) -> None:
    shown = shown_to(user, allow_other=allow_other)
    assert shown["private"] == (SAVED_BY, SAVED_BY)
    assert shown["shared"] == (SAVED_BY, GROUP)
