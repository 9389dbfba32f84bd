"""log, show, diff and tag on a store in a directory."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.scene import StoreWithVersions, assert_failed, ckptfs


def test_log_lists_versions_newest_first_with_what_was_promised(store: StoreWithVersions) -> None:
    run = ckptfs("log", store.url, "--json")
    assert run.code == 0, run.err
    assert [row["version"] for row in run.json] == [3, 2, 1]
    oldest = run.json[-1]
    assert (oldest["host"], oldest["files"], oldest["bytes"], oldest["note"], oldest["tags"]) == (
        "gpu-07",
        2,
        1500,
        {"step": 1},
        [],
    )
    assert oldest["bytes_added"] > 0
    assert oldest["time"] == "2026-09-21T14:13:21.123456Z"
    assert datetime.fromisoformat(oldest["time"]).tzinfo is not None


def test_log_shows_people_a_table_with_one_line_a_version(store: StoreWithVersions) -> None:
    lines = ckptfs("log", store.url).out.splitlines()
    assert lines[0].split() == ["VERSION", "TIME", "HOST", "FILES", "SIZE", "ADDED", "TAGS", "NOTE"]
    assert len(lines) == 4
    assert lines[2].endswith("better now")
    assert lines[3].endswith("step=1")


def test_log_limit_shows_the_newest_only(store: StoreWithVersions) -> None:
    assert [row["version"] for row in ckptfs("log", store.url, "-n", "1", "--json").json] == [3]


def test_log_of_a_store_without_versions_is_an_empty_list(tmp_path: Path) -> None:
    url = StoreWithVersions(tmp_path).url
    assert ckptfs("log", url, "--json").json == []
    run = ckptfs("log", url)
    assert (run.code, run.out) == (0, "")
    assert "no version is in the store yet" in run.err


def test_show_lists_a_versions_entries(store: StoreWithVersions) -> None:
    shown = ckptfs("show", store.url, "3", "--json").json
    assert shown["version"] == 3
    assert [entry["path"] for entry in shown["entries"]] == [".", "a.bin", "b.bin", "d", "d/c.bin", "d/\udcff\x1b"]
    file = shown["entries"][1]
    assert (file["kind"], file["mode"], file["size"], file["mtime_ns"]) == (
        "file",
        "0644",
        1000,
        1_790_000_000_123_456_789,
    )


def test_show_of_a_path_lists_it_and_what_is_below(store: StoreWithVersions) -> None:
    assert [entry["path"] for entry in ckptfs("show", store.url, "latest", "./d/", "--json").json["entries"]] == [
        "d",
        "d/c.bin",
        "d/\udcff\x1b",
    ]


def test_show_cannot_steer_the_terminal(store: StoreWithVersions) -> None:
    out = ckptfs("show", store.url, "3").out
    assert "\x1b" not in out
    assert "d/\\xff\\x1b" in out


def test_show_of_a_path_that_is_not_there_says_so(store: StoreWithVersions) -> None:
    assert_failed(ckptfs("show", store.url, "1", "d"), "version 1 has no d", "ckptfs show")


def test_diff_tells_added_removed_and_changed(store: StoreWithVersions) -> None:
    forward = ckptfs("diff", store.url, "1", "3", "--json").json
    assert [(each["path"], each["bytes_changed"]) for each in forward["added"]] == [
        ("d", 0),
        ("d/c.bin", 0),
        ("d/\udcff\x1b", 10),
    ]
    assert [(each["path"], each["change"], each["bytes_changed"]) for each in forward["changed"]] == [
        ("a.bin", "content", 1000)
    ]
    assert forward["removed"] == []
    assert forward["bytes_new"] == 1010
    backward = ckptfs("diff", store.url, "3", "1", "--json").json
    assert [each["path"] for each in backward["removed"]] == ["d", "d/c.bin", "d/\udcff\x1b"]


def test_diff_of_a_version_with_itself_is_empty(store: StoreWithVersions) -> None:
    run = ckptfs("diff", store.url, "2", "2")
    assert (run.code, run.out) == (0, "paths that differ: 0; new data: 0 B\n")


def test_tag_names_moves_lists_and_deletes(store: StoreWithVersions) -> None:
    assert ckptfs("tag", store.url, "2", "best").out == "tagged version 2 best\n"
    assert ckptfs("show", store.url, "best", "--json").json["tags"] == ["best"]
    assert ckptfs("tag", store.url, "latest", "best").out == "tagged version 3 best\n"
    assert ckptfs("tag", store.url, "--json").json == {"best": 3}
    assert [row["tags"] for row in ckptfs("log", store.url, "--json").json] == [["best"], [], []]
    assert ckptfs("tag", store.url, "best", "--delete").out == "version 3 is no longer tagged best\n"
    assert ckptfs("tag", store.url, "--json").json == {}


def test_deleting_a_tag_of_another_version_is_refused(store: StoreWithVersions) -> None:
    ckptfs("tag", store.url, "2", "best")
    assert_failed(ckptfs("tag", store.url, "1", "best", "--delete"), "version 1 has no tag 'best': it names version 2")
    assert ckptfs("tag", store.url, "2", "best", "--delete").code == 0


def test_a_version_that_does_not_exist_is_one_error_with_a_hint(store: StoreWithVersions) -> None:
    assert_failed(ckptfs("show", store.url, "9"), "has no version 9", "ckptfs log STORE")
    assert_failed(ckptfs("diff", store.url, "1", "nightly"), "has no tag 'nightly'", "ckptfs log STORE")
    assert_failed(ckptfs("tag", store.url, "9", "best"), "has no version 9", "ckptfs log STORE")


def test_a_place_that_is_no_store_is_one_error_with_a_hint(tmp_path: Path) -> None:
    assert_failed(ckptfs("log", f"file://{tmp_path}"), "is not a ckptfs store", "is the address right?")
    assert_failed(ckptfs("log", f"file://{tmp_path}/none"), f"{tmp_path}/none")
    assert_failed(ckptfs("log", "gs://bucket/x"), "gs:// is not a store", "s3://BUCKET/PREFIX or file:///DIRECTORY")
    assert_failed(ckptfs("log", tmp_path), "is neither a store's address nor a ckptfs mount", f"file://{tmp_path}")


@pytest.mark.parametrize("words", ["log", "show 1", "diff 1 2", "tag", "prune --keep-last 1", "verify"])
def test_what_fails_prints_no_document(words: str, tmp_path: Path) -> None:
    command, *rest = words.split()
    run = ckptfs(command, f"file://{tmp_path}", *rest, "--json")
    assert run.out == ""
    assert_failed(run, "is not a ckptfs store", "is the address right?")


def test_a_damaged_commit_record_is_one_error_that_names_it(store: StoreWithVersions) -> None:
    newest = min((store.directory / "c").iterdir())
    newest.chmod(0o644)
    body = newest.read_bytes()
    newest.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert_failed(ckptfs("log", store.url), f"c/{newest.name}", "ckptfs verify")


def test_an_unknown_format_version_is_refused_with_what_to_do(store: StoreWithVersions) -> None:
    path = store.directory / "format.json"
    text = json.loads(path.read_bytes()) | {"version": 99}
    os.chmod(path, 0o644)
    path.write_text(json.dumps(text))
    assert_failed(ckptfs("log", store.url), "99", "install a newer ckptfs")
