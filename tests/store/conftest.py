"""The stores that keep one protocol: each test of it runs over all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from ckptfs.crypto.sealing import StoreKey
from ckptfs.crypto.secret import Secret
from ckptfs.store.base import Store
from ckptfs.store.open import open_store
from ckptfs.store.s3 import S3Store
from ckptfs.store.sealed import SealedStore

SEALED_BY = StoreKey(Secret(b"a secret"), bytes(16))


@pytest.fixture(params=["file", "moto", "sealed", pytest.param("seaweedfs", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store. moto answers inside this process, so it proves nothing about simultaneous requests."""
    store = request.getfixturevalue(f"{request.param}_store")
    yield store
    store.close()


@pytest.fixture(params=["file", pytest.param("seaweedfs", marks=pytest.mark.s3)])
def shared_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store that really serves several clients."""
    store = request.getfixturevalue(f"{request.param}_store")
    yield store
    store.close()


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri(), create=True)


@pytest.fixture
def sealed_store(file_store: Store) -> Store:
    return SealedStore(file_store, SEALED_BY)


@pytest.fixture
def seaweedfs_store(bucket: str) -> Store:
    return open_store(bucket)


@pytest.fixture
def moto_store(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        store = S3Store("mocked", "some/prefix")
        store._client.create_bucket(Bucket="mocked")
        yield store
