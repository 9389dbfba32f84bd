"""`ckptfs prune` as a user runs it, and what other commands say of what is gone."""

import os
from pathlib import Path

import pytest

from tests.cli.scene import StoreWithVersions, assert_failed, ckptfs


def objects(store: StoreWithVersions) -> set[str]:
    return {str(path.relative_to(store.directory)) for path in store.directory.rglob("*") if path.is_file()}


def versions(store: StoreWithVersions) -> list[int]:
    return [row["version"] for row in ckptfs("log", store.url, "--json").json]


def test_it_drops_versions_and_tells_what_it_did(store: StoreWithVersions) -> None:
    for _ in range(2):
        store.save({"model.bin": os.urandom(100_000)})
    before = objects(store)
    run = ckptfs("prune", store.url, "--keep-last", "1", "--json")
    assert run.code == 0, run.err
    assert (run.json["dropped"], run.json["kept"], run.json["dry_run"]) == ([1, 2, 3, 4], 1, False)
    gone = before - objects(store)
    assert run.json["objects"] == len(gone) > 0
    assert run.json["bytes"] >= 100_000
    assert all(key.startswith("p/") for key in gone)
    assert versions(store) == [5]
    assert ckptfs("verify", store.url, "--read-data").code == 0


def test_people_get_one_line(store: StoreWithVersions) -> None:
    run = ckptfs("prune", store.url, "--keep-last", "2")
    assert run.out.startswith("dropped 1 version and ")
    assert run.out.endswith("; 2 kept\n")


def test_a_dry_run_says_what_would_be_dropped_and_changes_nothing(store: StoreWithVersions) -> None:
    before = objects(store)
    told = ckptfs("prune", store.url, "--keep-last", "1", "--dry-run", "--json").json
    assert (told["dropped"], told["dry_run"]) == ([1, 2], True)
    assert objects(store) == before
    done = ckptfs("prune", store.url, "--keep-last", "1", "--json").json
    assert done == told | {"dry_run": False}


@pytest.mark.parametrize(
    "options", [[], ["--dry-run"], ["--keep-last", "0"], ["--keep-last", "-1"], ["--keep-daily", "x"]]
)
def test_without_a_rule_or_with_one_that_cannot_be_it_is_a_usage_error(
    store: StoreWithVersions, options: list[str]
) -> None:
    before = objects(store)
    assert ckptfs("prune", store.url, *options).code == 2
    assert objects(store) == before


def test_a_tagged_version_stays_and_so_does_every_second_if_asked(store: StoreWithVersions) -> None:
    assert ckptfs("tag", store.url, "1", "first").code == 0
    assert ckptfs("prune", store.url, "--keep-every", "2").code == 0
    assert versions(store) == [3, 2, 1]
    assert ckptfs("tag", store.url, "first", "--delete").code == 0
    assert ckptfs("prune", store.url, "--keep-last", "1", "--keep-every", "2").code == 0
    assert versions(store) == [3, 2]


def test_the_newest_of_each_day_stays(store: StoreWithVersions) -> None:
    # all three are of one day
    assert ckptfs("prune", store.url, "--keep-daily", "7").code == 0
    assert versions(store) == [3]


def test_whoever_asks_for_a_pruned_version_is_told_so(store: StoreWithVersions, tmp_path: Path) -> None:
    (mountpoint := tmp_path / "mnt").mkdir()
    ckptfs("prune", store.url, "--keep-last", "1")
    for command in (
        ["show", store.url, "1"],
        ["diff", store.url, "1", "3"],
        ["restore", store.url, tmp_path / "out", "--version", "1"],
        ["tag", store.url, "1", "late"],
        ["verify", store.url, "--version", "1"],
        ["mount", store.url, mountpoint, "--version", "1", "--cache-dir", tmp_path / "cache"],
    ):
        assert_failed(ckptfs(*command), "no version 1 any more: it was pruned", "ckptfs log")


def test_a_store_without_versions_has_nothing_to_prune(tmp_path: Path) -> None:
    store = StoreWithVersions(tmp_path)
    assert ckptfs("prune", store.url, "--keep-last", "1", "--json").json["dropped"] == []


def test_a_place_that_is_no_store_is_not_pruned(tmp_path: Path) -> None:
    assert_failed(ckptfs("prune", tmp_path.as_uri(), "--keep-last", "1"), "is not a ckptfs store")
