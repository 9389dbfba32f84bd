"""restore, verify and doctor on a store in a directory."""

import os
from pathlib import Path

import pytest

from ckptfs.cli.access import StoreAccess
from ckptfs.cli.store_checks import check_store
from ckptfs.errors import StoreAccessError
from ckptfs.store.file import FileStore
from tests.cli.scene import MTIME_NS, StoreWithVersions, assert_failed, ckptfs


def test_restore_writes_the_newest_version_with_its_times(store: StoreWithVersions, tmp_path: Path) -> None:
    run = ckptfs("restore", store.url, tmp_path / "out")
    assert run.code == 0, run.err
    assert run.out.startswith(f"restored version 3 to {tmp_path}/out: 4 files, 1.47 KiB, ")
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"A" * 1000
    assert (tmp_path / "out" / "a.bin").stat().st_mtime_ns == MTIME_NS
    assert (tmp_path / "out" / "d" / "\udcff\x1b").read_bytes() == b"c" * 10


def test_restore_of_an_older_version_and_one_path(store: StoreWithVersions, tmp_path: Path) -> None:
    assert ckptfs("restore", store.url, tmp_path / "out", "--version", "1", "a.bin").code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"a.bin": b"a" * 1000}


def test_restore_of_a_path_that_is_not_there_writes_nothing(store: StoreWithVersions, tmp_path: Path) -> None:
    assert_failed(ckptfs("restore", store.url, tmp_path / "out", "none"), "none")
    assert not (tmp_path / "out").exists()


def test_restore_to_a_file_says_that_it_is_no_directory(store: StoreWithVersions, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert_failed(ckptfs("restore", store.url, tmp_path / "out"), "out is not a directory", "into a directory")
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "link").symlink_to("nowhere")
    assert_failed(ckptfs("restore", store.url, tmp_path / "link"), "link is not a directory", "into a directory")


def test_verify_of_a_whole_store_says_what_was_checked(store: StoreWithVersions) -> None:
    assert ckptfs("verify", store.url).out == "3 versions checked: every object is there\n"
    assert ckptfs("verify", store.url, "--read-data").out == "3 versions checked: every byte hashes right\n"
    assert ckptfs("verify", store.url, "--version", "2", "--json").json == {
        "ok": True,
        "read_data": False,
        "findings": [],
    }


def test_verify_names_file_chunk_and_object_of_damage_and_restore_refuses_it(
    store: StoreWithVersions, tmp_path: Path
) -> None:
    pack = min((store.directory / "p").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damaged = bytearray(pack.read_bytes())
    damaged[40] ^= 1
    os.chmod(pack, 0o644)
    pack.write_bytes(damaged)
    run = ckptfs("verify", store.url, "--read-data", "--json")
    assert run.code == 1
    assert run.json["ok"] is False
    assert {(each["version"], each["path"], each["object"]) for each in run.json["findings"]} == {
        (1, "a.bin", f"p/{pack.name}")
    }
    assert all(len(each["chunk"]) == 64 for each in run.json["findings"])
    assert_failed(ckptfs("verify", store.url, "--read-data"), "1 fault in")
    failed = ckptfs("restore", store.url, tmp_path / "out", "--version", "1")
    assert failed.code == 1
    assert "not restored: a.bin" in failed.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.bin"]


def test_verify_says_where_no_version_needs_what_is_damaged(store: StoreWithVersions, tmp_path: Path) -> None:
    pack = min((store.directory / "p").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damaged = bytearray(pack.read_bytes())
    damaged[-60] ^= 1
    os.chmod(pack, 0o644)
    pack.write_bytes(damaged)
    assert ckptfs("verify", store.url).code == 0
    run = ckptfs("verify", store.url, "--read-data")
    assert_failed(run, "1 fault in")
    assert run.out.startswith(f"p/{pack.name}: no version needs it")
    assert "every version can be mounted and restored as before" in run.err
    assert not (store.directory / "d").exists()
    assert ckptfs("restore", store.url, tmp_path / "out", "--version", "1").code == 0


def test_what_verify_says_of_a_damaged_newest_record_brings_the_versions_before_it_back(
    store: StoreWithVersions, tmp_path: Path
) -> None:
    newest = min((store.directory / "c").iterdir())
    body = newest.read_bytes()
    newest.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    run = ckptfs("verify", store.url, "--read-data")
    assert_failed(run, "1 fault in", f"without c/{newest.name}, the newest record")
    assert "--accept-rollback" in run.err
    assert run.out == f"c/{newest.name}: commit record 4 does not hash to what it says\n"
    newest.rename(tmp_path / "damaged")
    assert [each["version"] for each in ckptfs("log", store.url, "--accept-rollback", "--json").json] == [2, 1]
    assert ckptfs("verify", store.url, "--read-data").code == 0


def test_verify_names_the_record_to_put_back_and_not_the_newest_that_only_builds_on_it(
    store: StoreWithVersions,
) -> None:
    newest, *older = sorted((store.directory / "c").iterdir())
    holder = older[0]
    body = holder.read_bytes()
    holder.unlink()
    run = ckptfs("verify", store.url)
    assert run.code == 1
    assert f"put c/{holder.name} back" in run.err
    assert newest.name not in run.err
    assert "--accept-rollback" not in run.err
    holder.write_bytes(body)
    assert ckptfs("verify", store.url).code == 0


def test_verify_finds_a_pack_that_is_gone(store: StoreWithVersions) -> None:
    pack = min((store.directory / "p").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    pack.unlink()
    run = ckptfs("verify", store.url)
    assert run.code == 1
    assert "the pack is missing" in run.out


@pytest.mark.fuse
def test_doctor_finds_this_machine_and_a_store_well_and_leaves_nothing_behind(
    store: StoreWithVersions, tmp_path: Path
) -> None:
    before = sorted(path for path in store.directory.rglob("*"))
    run = ckptfs("doctor", store.url, "--json", "--cache-dir", tmp_path)
    assert run.code == 0, run.out
    results = {each["check"]: each["result"] for each in run.json}
    assert {"fuse device", "kernel", "libfuse", "privilege", "passthrough", "cache directory"} <= results.keys()
    assert [results[check] for check in ("credentials", "store", "conditional writes", "history")] == ["ok"] * 4
    assert sorted(path for path in store.directory.rglob("*")) == before


def test_doctor_says_fail_and_what_to_do_for_a_store_that_is_not_there(tmp_path: Path) -> None:
    run = ckptfs("doctor", f"file://{tmp_path}/none")
    assert_failed(run, f"store: {tmp_path}/none cannot be used", "is the filesystem that holds it mounted?")
    assert "fail  store: " in run.out
    assert f"{tmp_path}/none" in run.out


def test_doctor_takes_a_place_that_is_to_become_a_store(tmp_path: Path) -> None:
    run = ckptfs("doctor", f"file://{tmp_path}", "--json")
    assert {each["check"]: each["fact"] for each in run.json}["history"].startswith("no store there yet")


def test_doctor_does_not_take_a_store_that_lost_its_format_for_a_place_that_is_to_become_one(
    store: StoreWithVersions,
) -> None:
    (store.directory / "format.json").unlink()
    run = ckptfs("doctor", store.url)
    assert_failed(run, "but no format.json: it is not a ckptfs store, or a damaged one", "needs its format.json back")


def test_doctor_leaves_nothing_behind_where_nothing_may_be_written(
    store: StoreWithVersions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_store: FileStore, key: str, *_body: bytes) -> None:
        raise StoreAccessError(f"cannot write {key}: Read-only file system")

    for name in ("create", "delete"):
        monkeypatch.setattr(FileStore, name, refuse)
    findings = {found.check: found for found in check_store(store.url, StoreAccess(cache_dir=tmp_path))}
    assert findings["conditional writes"].result == "warn"
    assert findings["history"].result == "ok"
    assert not caplog.records
