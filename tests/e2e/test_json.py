"""docs/JSON.md names the fields that mounts and commands print, all of them and no others."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.scene import ckptfs
from tests.mounting import Mount, Mounts

_PAGE = Path(__file__).parents[2] / "docs" / "JSON.md"


def documented(heading: str) -> set[str]:
    """The fields in the table below a heading."""
    section = re.split(rf"\n#+ {re.escape(heading)}", _PAGE.read_text())[1].split("\n#")[0]
    fields = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert fields
    return set(fields)


def said(mount: Mount, name: str) -> dict[str, Any]:
    return dict(json.loads((mount.root / name).read_bytes()))


@pytest.mark.fuse
def test_the_page_on_json_names_the_fields_that_are_printed(mount: Mounts) -> None:
    writer = mount()
    (writer.root / "file").write_bytes(b"content")
    writer.save()
    writer.sync()
    reader = mount(name="reader", cache="other", read_only=True, follow=True)
    version, status = documented("A version: `.save`"), documented("A mount: `.status`")
    for text in (said(writer, ".save"), said(writer, ".versions/1/.save"), said(writer, ".status")["newest"]):
        assert set(text) == version
    written, read = set(said(writer, ".status")), set(said(reader, ".status"))
    assert written | read == status
    assert read - written == {"follow"}
    counters = re.findall(r"`(\w+)`", re.findall(r"^\| `counters` \|(.*)", _PAGE.read_text(), re.MULTILINE)[0])
    assert set(counters) == set(said(writer, ".status")["counters"])
    (listed,) = ckptfs("log", mount.file_store, "--json").json
    assert set(listed) == documented("A version in a list")
    shown = ckptfs("show", mount.file_store, "1", "--json").json
    assert set(shown) == {*listed, "entries"}
    assert set(shown["entries"][0]) == documented("A file of a version")


@pytest.mark.fuse
def test_the_page_on_json_names_what_commands_say_of_differences_damage_and_what_was_kept(mount: Mounts) -> None:
    mounted = mount()
    for name in ("stays", "goes"):
        (mounted.root / name).write_bytes(os.urandom(1000))
        mounted.save()
    (mounted.root / "goes").unlink()
    (mounted.root / "stays").chmod(0o600)
    mounted.save()
    mounted.sync()
    store = mount.file_store
    differs = ckptfs("diff", store, "2", "3", "--json").json
    assert set(differs) == documented("What differs")
    for each in (*differs["removed"], *differs["changed"]):
        assert set(each) == documented("A path that differs")
    assert {each["change"] for each in (*differs["removed"], *differs["changed"])} == {"removed", "attributes"}
    assert ckptfs("tag", store, "1", "first", "--json").json == {"first": 1}
    assert set(ckptfs("prune", store, "--keep-last", "1", "--json").json) == documented("What was dropped")
    for pack in Path(store.removeprefix("file://"), "p").iterdir():
        pack.unlink()
    verified = ckptfs("verify", store, "--json").json
    assert set(verified) == documented("What is wrong")
    assert verified["findings"]
    assert all(set(each) == documented("A finding") for each in verified["findings"])
    (mounted.root / "stays").write_bytes(b"mine")
    mounted.restore("latest")
    (kept,) = ckptfs("recover", mounted.cache, "--json").json
    assert set(kept) == documented("What is in no version")
    checks = ckptfs("doctor", "--json").json
    assert all(set(each) == documented("What was looked at") for each in checks)
    assert {each["result"] for each in checks} <= {"ok", "warn", "fail"}
