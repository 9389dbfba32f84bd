"""The commands against a real S3 server: what goes wrong is one line and a hint, whoever refused it."""

from pathlib import Path
from typing import Any

import pytest

from ckptfs.store.open import open_store
from demo.seaweedfs import Identity, SeaweedFS
from tests.cli.scene import Run, assert_failed, ckptfs

pytestmark = pytest.mark.s3


def check(run: Run, name: str) -> Any:
    return next(each for each in run.json if each["check"] == name)


def test_doctor_finds_a_good_store_well_and_leaves_nothing_behind(bucket: str) -> None:
    run = ckptfs("doctor", bucket, "--json")
    for name in ("credentials", "store", "conditional writes", "history"):
        assert check(run, name)["result"] == "ok", run.out
    assert list(open_store(bucket).list("")) == []
    assert_failed(ckptfs("log", bucket), "is not a ckptfs store", "is the address right?")
    assert check(ckptfs("doctor", bucket, "--json"), "history")["fact"].startswith("no store there yet")


def test_doctor_says_that_a_reader_may_only_read(bucket: str, seaweedfs: SeaweedFS) -> None:
    run = ckptfs("doctor", bucket, "--json", env=seaweedfs.env_for(Identity.READER))
    writes = check(run, "conditional writes")
    assert (writes["result"], writes["hint"]) == ("warn", "enough for read-only mounts")
    assert run.code == 0


def test_a_missing_bucket_is_one_error_with_a_hint(bucket: str) -> None:
    assert_failed(ckptfs("log", "s3://no-such-bucket/x"), "no-such-bucket")
    run = ckptfs("doctor", "s3://no-such-bucket/x", "--json")
    assert (run.code, check(run, "store")["result"]) == (1, "fail")


def test_wrong_credentials_and_no_permission_are_one_error_with_a_hint(bucket: str, seaweedfs: SeaweedFS) -> None:
    for env in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, seaweedfs.env_for(Identity.NOBODY)):
        assert_failed(ckptfs("log", bucket, env=env), bucket, hint="")
        run = ckptfs("doctor", bucket, "--json", env=env)
        assert (run.code, check(run, "credentials")["result"]) == (1, "fail")
        assert check(run, "credentials")["hint"]


def test_no_credentials_at_all_is_one_error_with_a_hint(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert_failed(ckptfs("log", bucket), "credentials", hint="")


def test_an_endpoint_where_nobody_listens_is_one_error_with_a_hint(bucket: str) -> None:
    # port 1 of loopback: refused at once
    run = ckptfs("log", bucket, env={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert_failed(run, bucket.split("/")[2], "ckptfs doctor")


@pytest.mark.fuse
def test_mounting_what_cannot_be_reached_fails_before_anything_is_there(
    bucket: str, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    (tmp_path / "ckpt").mkdir()
    arguments = (tmp_path / "ckpt", "--cache-dir", tmp_path / "cache")
    assert_failed(ckptfs("mount", "s3://no-such-bucket/x", *arguments), "no-such-bucket")
    assert_failed(ckptfs("mount", bucket, *arguments, env=seaweedfs.env_for(Identity.NOBODY)), bucket, hint="")
    assert_failed(ckptfs("mount", bucket, *arguments, env=seaweedfs.env_for(Identity.READER)), bucket, hint="")
    assert ckptfs("status", tmp_path / "ckpt").code == 1
