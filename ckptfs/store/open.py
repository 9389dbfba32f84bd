"""Store URLs: from what a user writes to an open store."""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ckptfs.errors import InvalidInputError
from ckptfs.store.base import Store
from ckptfs.store.file import FileStore
from ckptfs.store.pace import Pace
from ckptfs.store.server_encryption import ServerEncryption

_FORMS = "a store is s3://BUCKET/PREFIX or file:///DIRECTORY"
# S3's rules for bucket names, and the upper case and underscores of old buckets
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


def open_store(
    url: str, *, create: bool = False, upload_limit_bps: int = 0, server_encryption: ServerEncryption | None = None
) -> Store:
    """Open the store that a URL names.

    Args:
        url: `s3://BUCKET/PREFIX`, taken literally, or `file:///DIRECTORY`, percent-decoded as `Path.as_uri` encodes.
        create: Make the directory of a file store if it is missing. A bucket is never made.
        upload_limit_bps: The most bytes a second that are sent; 0: no limit.
        server_encryption: Asked of S3 for every object that is written.

    Raises:
        InvalidInputError: The URL has another form, or the store is not in S3 and server_encryption is given.
        StoreMissingError: The directory does not exist. That a bucket is missing shows at its first use.
        StoreError: The store cannot be opened.
    """
    pace = Pace(upload_limit_bps) if upload_limit_bps else None
    place = check_url(url)
    if isinstance(place, Path):
        if server_encryption is not None:
            raise InvalidInputError(
                f"{url} is not in S3, which alone knows --sse",
                hint="--encrypt encrypts a store wherever it is, when it is made",
            )
        return FileStore(place, create=create, pace=pace)
    # not at the top: boto3 takes 0.3 s to import, which users of file:// need not wait for
    from ckptfs.store.s3 import S3Store

    bucket, prefix = place
    return S3Store(bucket, prefix, pace=pace, server_encryption=server_encryption)


def check_url(url: str) -> Path | tuple[str, str]:
    """Return the directory that a URL names, or the bucket and the prefix; nobody is asked whether they exist.

    Raises:
        InvalidInputError: It names none.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        return _bucket_and_prefix(rest)
    if separator and scheme == "file":
        return _file_directory(rest)
    if separator:
        # what comes after may hold a password
        raise InvalidInputError(f"{scheme}:// is not a store that ckptfs knows", hint=_FORMS)
    is_path = url.startswith(("/", "./", "../"))
    raise InvalidInputError(
        f"{url!r} is not a store", hint=f"write {Path(os.path.abspath(url)).as_uri()}" if is_path else _FORMS
    )


def _bucket_and_prefix(rest: str) -> tuple[str, str]:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise InvalidInputError(
            "a store's URL holds no credentials", hint="leave them to AWS_PROFILE, the environment or a role"
        )
    if _BUCKET.fullmatch(bucket) is None:
        raise InvalidInputError(f"{bucket!r} is not the name of a bucket", hint=_FORMS)
    if bucket.endswith("--x-s3"):
        raise InvalidInputError(
            f"{bucket} is a directory bucket, which does not list its keys in order",
            hint="use a general purpose bucket",
        )
    prefix = prefix.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise InvalidInputError(f"the prefix {prefix!r} has a part that is empty, `.` or `..`", hint=_FORMS)
    return bucket, prefix


def store_directory(url: str) -> Path | None:
    """Return the directory of a store that is in one, None for any other."""
    scheme, _, rest = url.partition("://")
    return _file_directory(rest) if scheme == "file" else None


def _file_directory(rest: str) -> Path:
    path = os.fsdecode(unquote_to_bytes(os.fsencode(rest.removeprefix("localhost"))))
    if not path.startswith("/") or "\0" in path or os.path.normpath(path) in ("/", "//"):
        raise InvalidInputError(f"file://{rest} names no directory by its absolute path", hint=_FORMS)
    return Path(os.path.normpath(path))
