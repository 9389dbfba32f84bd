"""What a user sees who is not let in, or knocks at the wrong door: a real server, wrong settings."""

import secrets
import socket

import pytest

from ckptfs.errors import NotFoundError, StoreAccessError, StoreError, StoreMissingError, StoreUnavailableError
from ckptfs.store import s3
from ckptfs.store.base import Store
from ckptfs.store.open import open_store
from ckptfs.store.s3 import S3Store
from demo.seaweedfs import Identity, SeaweedFS

pytestmark = pytest.mark.s3


def test_a_wrong_secret_is_an_access_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StoreAccessError, match="SignatureDoesNotMatch") as caught:
        open_store(bucket).get("format.json")
    assert "not-the-secret" not in f"{caught.value.fact} {caught.value.hint}"


def test_an_unknown_access_key_is_an_access_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody-knows-me")
    with pytest.raises(StoreAccessError, match="InvalidAccessKeyId"):
        open_store(bucket).create("format.json", b"{}")


def test_no_credentials_at_all_is_an_access_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreAccessError, match="credentials") as caught:
        open_store(bucket).get("format.json")
    assert "AWS_PROFILE" in str(caught.value.hint)


def test_half_of_the_credentials_is_an_access_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreAccessError):
        open_store(bucket).get("format.json")


def test_an_unknown_profile_is_an_access_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(StoreAccessError, match="nowhere"):
        open_store(bucket)


def test_a_reader_can_read_and_list_but_not_change(
    bucket: str, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(bucket).put("p/one", b"some bytes")
    for name, value in seaweedfs.env_for(Identity.READER).items():
        monkeypatch.setenv(name, value)
    reader = open_store(bucket)
    assert reader.get("p/one") == b"some bytes"
    assert [row.key for row in reader.list("")] == ["p/one"]
    for change in (
        lambda: reader.put("p/one", b"other"),
        lambda: reader.create("p/two", b"new"),
        lambda: reader.delete("p/one"),
        lambda: reader.delete_many(["p/one"]),
    ):
        with pytest.raises(StoreAccessError, match="AccessDenied"):
            change()
    assert reader.get("p/one") == b"some bytes"


def test_without_permissions_nothing_can_be_read(
    bucket: str, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(bucket).put("p/one", b"some bytes")
    for name, value in seaweedfs.env_for(Identity.NOBODY).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreAccessError) as caught:
        open_store(bucket).get("p/one")
    assert "s3:GetObject" in str(caught.value.hint)
    with pytest.raises(StoreAccessError):
        next(open_store(bucket).list(""))


def test_a_missing_bucket_is_missing_for_every_request_and_is_not_made(bucket: str) -> None:
    store = open_store(f"s3://no-{secrets.token_hex(8)}/prefix")
    for request in (
        lambda: store.get("p/one"),
        lambda: store.get_range("p/one", 0, 1),
        lambda: next(store.list("")),
        lambda: store.put("p/one", b"body"),
        lambda: store.create("p/one", b"body"),
    ):
        with pytest.raises(StoreMissingError, match="NoSuchBucket"):
            request()


def test_an_endpoint_where_nobody_listens_is_unavailable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://a-user:a-password@{endpoint}")
        store = S3Store("ckptfs-test", "prefix", attempts=1)
        with pytest.raises(StoreUnavailableError, match=endpoint) as caught:
            store.get("format.json")
    assert "a-password" not in f"{caught.value.fact} {caught.value.hint}"


def test_an_endpoint_that_is_no_url_is_a_store_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost port 8333")
    with pytest.raises(StoreError) as caught:
        open_store(bucket)
    assert "AWS_ENDPOINT_URL" in str(caught.value.hint)


def test_the_endpoint_of_s3_alone_is_used_and_the_region_may_be_unset(
    bucket: str, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    # a name, not an address: boto3 must not make a host name of the bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint.replace("127.0.0.1", "localhost"))
    store = open_store(bucket)
    store.put("p/one", b"some bytes")
    assert store.get("p/one") == b"some bytes"


def test_a_body_that_is_damaged_on_the_way_is_not_stored(
    seaweedfs_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "crc32c", lambda body: 0x12345678)
    with pytest.raises(StoreUnavailableError, match="BadDigest"):
        seaweedfs_store.create("p/one", b"some bytes")
    with pytest.raises(NotFoundError):
        seaweedfs_store.get("p/one")
