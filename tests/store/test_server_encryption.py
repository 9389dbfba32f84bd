"""SSE-S3 and SSE-KMS: every object that is written asks for it, whichever way it is written."""

from collections.abc import Iterator

import pytest
from moto import mock_aws

from ckptfs.store.open import open_store
from ckptfs.store.s3 import S3Store
from ckptfs.store.server_encryption import ServerEncryption

ASKED = [
    (None, {"ServerSideEncryption": None, "SSEKMSKeyId": None}),
    (ServerEncryption("AES256"), {"ServerSideEncryption": "AES256"}),
    (ServerEncryption("aws:kms"), {"ServerSideEncryption": "aws:kms"}),
    (ServerEncryption("aws:kms", "alias/mine"), {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/mine"}),
]


@pytest.fixture
def mocked_s3(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield


@pytest.mark.parametrize(("encryption", "shown"), ASKED)
def test_every_object_is_encrypted_as_it_was_asked(
    mocked_s3: None, encryption: ServerEncryption | None, shown: dict[str, str | None]
) -> None:
    store = open_store("s3://mocked/prefix", server_encryption=encryption)
    assert isinstance(store, S3Store)
    store._client.create_bucket(Bucket="mocked")
    store.put("p/one", b"some bytes")
    store.create("c/one", b"some bytes")
    for key in ("p/one", "c/one"):
        head = store._client.head_object(Bucket="mocked", Key=f"prefix/{key}")
        assert {name: head.get(name) for name in shown} == shown
        assert store.get(key) == b"some bytes"
        assert store.get_range(key, 5, 5) == b"bytes"
