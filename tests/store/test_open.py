"""From what a user writes to a store, or to a message that says what to write."""

import subprocess
import sys
from pathlib import Path

import pytest

from ckptfs.errors import InvalidInputError, StoreMissingError
from ckptfs.store.open import open_store


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/one", "s3://bucket/one"),
        ("s3://bucket/one/two/", "s3://bucket/one/two"),
        ("s3://bucket/a b#c?d%20e", "s3://bucket/a b#c?d%20e"),
        ("s3://My_Old.bucket/one", "s3://My_Old.bucket/one"),
    ],
)
def test_an_s3_url_is_taken_literally(no_aws: None, url: str, canonical: str) -> None:
    store = open_store(url)
    assert store.url == canonical
    store.close()


@pytest.mark.parametrize("name", ["plain", "with space", "100%", "ü", "a#b?c", "trailing."])
def test_a_file_url_is_what_a_path_writes_of_itself(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    open_store(directory.as_uri(), create=True).put("p/one", b"some bytes")
    assert (directory / "p" / "one").read_bytes() == b"some bytes"
    assert open_store(directory.as_uri()).url == directory.as_uri()


def test_a_file_url_made_by_a_shell_works_too(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    for url in (
        f"file://{tmp_path}/with space",
        f"file://localhost{tmp_path}/with space/",
        f"file://{tmp_path}//with space/.",
    ):
        assert open_store(url).url == (tmp_path / "with space").as_uri()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bucket",
        "s3:/bucket/one",
        "s3://",
        "s3:///one",
        "s3://b",
        "s3://-bucket/one",
        "s3://bucket:9000/one",
        "s3://bucket/one//two",
        "s3://bucket/../one",
        "S3://bucket/one",
        "gs://bucket/one",
        "file:/tmp/one",
        "file://",
        "file:///",
        "file:///tmp/..",
        "file://tmp/one",
        "file://./one",
        "file:///tmp/a%00b",
    ],
)
def test_what_is_no_store_is_refused_with_the_forms_that_are(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_store(url, create=True)
    assert "s3://BUCKET/PREFIX" in str(caught.value.hint)
    assert "file:///DIRECTORY" in str(caught.value.hint)


def test_a_plain_path_is_answered_with_its_url(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_store(str(tmp_path))
    assert tmp_path.as_uri() in str(caught.value.hint)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/one", "https://key:secret@host/one"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_store(url)
    assert "secret" not in f"{caught.value.fact} {caught.value.hint}"


def test_a_directory_bucket_is_refused_as_it_lists_in_no_order() -> None:
    with pytest.raises(InvalidInputError, match="order"):
        open_store("s3://fast--use1-az4--x-s3/one")


def test_a_missing_directory_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        open_store((tmp_path / "none").as_uri())
    assert not (tmp_path / "none").exists()


def test_a_file_store_is_opened_without_loading_boto3(tmp_path: Path) -> None:
    script = (
        "import sys; from ckptfs.store.open import open_store; "
        f"open_store({tmp_path.as_uri()!r}).put('p/one', b''); "
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore')))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False).returncode == 0
