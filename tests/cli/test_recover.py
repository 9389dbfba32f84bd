"""recover lists and copies what a cache directory holds that is in no version."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import write_seal
from ckptfs.format.manifest import Entry, Kind, Part
from ckptfs.format.part import encode_part
from tests.cli.scene import MTIME_NS, assert_failed, capture, ckptfs


@pytest.fixture
def cache(tmp_path: Path) -> CacheDirectory:
    """A store's cache directory with one thing of each kind."""
    cache = CacheDirectory(tmp_path / "cache" / "models-llama-0123456789ab")
    cache.prepare()
    capture(cache.pending, 8, {"a.bin": b"waiting"}, before={}, note={"step": 8})
    late = capture(cache.pending, 7, {"d/b.bin": b"late", "empty": b""}, before={}, note="late")
    late.directory.rename(cache.aside / f"{late.directory.name}-0123abcd")
    unsaved = cache.unsaved / "20261123T211500Z-beef"
    (unsaved / "deep").mkdir(parents=True)
    (unsaved / "deep" / "c.bin").write_bytes(b"never saved")
    os.utime(unsaved / "deep" / "c.bin", ns=(MTIME_NS, MTIME_NS))
    return cache


def test_everything_kept_is_listed_oldest_first(cache: CacheDirectory) -> None:
    found = ckptfs("recover", cache.root, "--json").json
    assert [(each["kind"], each["version"], each["files"], each["bytes"]) for each in found] == [
        ("aside", 7, 2, 4),
        ("pending", 8, 1, 7),
        ("unsaved", None, 1, 11),
    ]
    assert found[0]["paths"] == ["d/b.bin", "empty"]
    assert found[2]["time"] == "2026-11-23T21:15:00.000000Z"
    assert found[1]["note"] == {"step": 8}


def test_the_directory_given_to_mount_is_understood_too(cache: CacheDirectory) -> None:
    lines = ckptfs("recover", cache.root.parent).out.splitlines()
    assert lines[0].split() == ["WHAT", "VERSION", "TIME", "FILES", "SIZE", "DIRECTORY", "NOTE"]
    assert [line.split()[0] for line in lines[1:]] == ["aside", "pending", "unsaved"]


def test_copying_out_gives_the_bytes_and_times_and_leaves_what_is_kept(cache: CacheDirectory, tmp_path: Path) -> None:
    before = ckptfs("recover", cache.root, "--json").json
    run = ckptfs("recover", cache.root, "--copy-to", tmp_path / "out")
    assert run.code == 0, run.err
    contents = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert contents == {
        "version-0000000007.0000-0123abcd/d/b.bin": b"late",
        "version-0000000007.0000-0123abcd/empty": b"",
        "version-0000000008.0000/a.bin": b"waiting",
        "20261123T211500Z-beef/deep/c.bin": b"never saved",
    }
    for name in contents:
        assert (tmp_path / "out" / name).stat().st_mtime_ns == MTIME_NS
    assert ckptfs("recover", cache.root, "--json").json == before


def test_all_names_of_a_file_of_any_kind_come_out_as_names_of_one(tmp_path: Path) -> None:
    cache = CacheDirectory(tmp_path / "cache" / "models-llama-0123456789ab")
    cache.prepare()
    root = Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755)
    fifo = Entry(path=b"fifo", kind=Kind.FIFO, mode=0o600, link_id=7)
    link = Entry(path=b"link", kind=Kind.SYMLINK, mode=0o777, size_bytes=2, target=b"to", link_id=8)
    entries = (root, *(replace(each, path=b"%s%d" % (each.path, name)) for each in (fifo, link) for name in (1, 2)))
    directory = capture(cache.pending, 1, {}, before={}, note=None).directory
    manifest = encode_part(Part(entries), local=True)
    (directory / "manifest").write_bytes(manifest)
    write_seal(directory, (directory / "version.json").read_bytes(), manifest)
    assert ckptfs("recover", cache.root, "--copy-to", tmp_path / "out").code == 0
    (out,) = (tmp_path / "out").iterdir()
    for kind in ("fifo", "link"):
        one, other = ((out / f"{kind}{name}").lstat() for name in (1, 2))
        assert (one.st_ino, one.st_nlink) == (other.st_ino, 2)


def test_copying_out_never_overwrites(cache: CacheDirectory, tmp_path: Path) -> None:
    assert ckptfs("recover", cache.root, "--copy-to", tmp_path / "out").code == 0
    assert_failed(ckptfs("recover", cache.root, "--copy-to", tmp_path / "out"), "exists already")


def test_a_damaged_version_is_listed_as_such_and_does_not_hide_the_others(
    cache: CacheDirectory, tmp_path: Path
) -> None:
    manifest = next(cache.aside.iterdir()) / "manifest"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    found = {each["kind"]: each for each in ckptfs("recover", cache.root, "--json").json}
    assert found["aside"]["damage"]
    assert found["pending"]["damage"] is None
    assert ckptfs("recover", cache.root, "--copy-to", tmp_path / "out").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "20261123T211500Z-beef",
        "version-0000000008.0000",
    ]


def test_a_place_that_is_no_cache_directory_is_an_error(tmp_path: Path) -> None:
    assert_failed(ckptfs("recover", tmp_path), "neither a ckptfs mount nor a cache directory", "--cache-dir")
    assert_failed(ckptfs("recover", tmp_path / "none"), "neither a ckptfs mount nor a cache directory")
