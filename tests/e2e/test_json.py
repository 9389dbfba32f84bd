"""docs/JSON.md names the fields that mounts and commands print, all of them and no others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.scene import ckptfs
from tests.mounting import Mount, Mounts

_PAGE = Path(__file__).parents[2] / "docs" / "JSON.md"


def documented(heading: str) -> set[str]:
    """The fields in the table below a heading."""
    section = _PAGE.read_text().split(f"\n## {heading}")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


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
