"""What several layers' tests share: an S3 server on loopback, and a place of one's own in it."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.seaweedfs import SeaweedFS

BUCKET = "ckptfs-test"

_FRAMEWORKS = Path(__file__).with_name("frameworks")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs packages of its own (`make test-frameworks`), unless it is asked for."""
    asked = any(Path(argument.partition("::")[0]).resolve().is_relative_to(_FRAMEWORKS) for argument in config.args)
    return True if collection_path == _FRAMEWORKS and not asked else None


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """One SeaweedFS for the whole run; it takes about 3 s to start. A test that stops it starts one of its own."""
    with SeaweedFS() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the AWS configuration of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    # without it boto3 asks for a role at an address that nobody answers
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def bucket(seaweedfs: SeaweedFS, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh prefix in SeaweedFS, with the environment set so that boto3 finds it."""
    for name, value in seaweedfs.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"
