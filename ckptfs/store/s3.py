"""A store in an S3 bucket, by boto3. The only module that imports boto3.

How the client is set up, and why (bench: 32 MiB PUTs to a null sink on loopback, two threads; CPU of the client):
    payload_signing_enabled=False: S3 checks a body by the CRC32C that is sent, and signed, with each PUT, instead of by
        its SHA-256: 0.47 instead of 2.1 CPU s/GB, 2.5 instead of 0.6 GB/s. CRC32C by the package crc32c, as fast as
        memory; awscrt, which boto3 loads where it is installed, takes 30 ms of every command and 3.5 MiB of every
        process.
    request_checksum_calculation and response_checksum_validation "when_required": boto3 adds no second checksum, nor a
        chunked body that many S3-compatible servers refuse. Every byte read is checked by its hash above this layer.
    Credentials, region and endpoint are found by boto3's own chain.
"""

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from crc32c import crc32c

from ckptfs.errors import (
    CorruptObjectError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from ckptfs.store.base import MAX_GET_BYTES, ObjectInfo
from ckptfs.store.pace import Pace, PacedBody
from ckptfs.store.s3_refusals import EXPIRED_CODES, error_of
from ckptfs.store.server_encryption import ServerEncryption

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

T = TypeVar("T")

# 1 s: making a client takes 0.2 s of CPU, which requests that fail one after the other must not cost each
_RECONNECT_S = 1.0
# what boto3 itself signs for when nothing is configured; S3-compatible servers mostly ignore it, and AWS redirects
_DEFAULT_REGION = "us-east-1"
# S3's own limit of one request, for listing as for deleting
_BATCH_KEYS = 1000
_PIECE_BYTES = 1 << 20

_CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
    boto.RefreshWithMFAUnsupportedError,
)
# IncompleteReadError: the connection ended before the body did
_CONNECTION_ERRORS = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, boto.MetadataRetrievalError)

_HINT_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"
_HINT_CERTIFICATE = "does this machine know the authority that signed the server's certificate? AWS_CA_BUNDLE adds some"


class S3Store:
    """Objects of a bucket below a prefix; see store/base.py for the methods.

    Args:
        bucket: Name of the bucket, which exists.
        prefix: What the objects' names begin with, without a slash at either end; may be empty.
        connections: How many are kept for the next request; at least the number of threads that use the store.
        attempts: How often a request is sent before its failure is reported.
        connect_timeout_s: For a connection to be made.
        read_timeout_s: For each piece of an answer.
        pace: For what is sent; None: as fast as it goes.
        server_encryption: Asked for with each object; None: as the bucket is set.

    Raises:
        StoreError: The configuration of boto3 is not usable.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        connections: int = 32,
        attempts: int = 3,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        pace: Pace | None = None,
        server_encryption: ServerEncryption | None = None,
    ) -> None:
        self._pace = pace
        self._put_arguments: dict[str, Any] = server_encryption.arguments() if server_encryption is not None else {}
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._attempts = attempts
        config = Config(
            s3={"payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            max_pool_connections=connections,
            tcp_keepalive=True,
        )
        self._config = config
        self._lock = threading.Lock()
        with self._errors("open"):
            self._client = self._connect()
        self._connected_s = time.monotonic()

    def _connect(self) -> "S3Client":
        """Return a client with the credentials that are found now."""
        # a session of its own: boto3's default one must not be used by two threads at once
        session = boto3.session.Session()
        return session.client("s3", region_name=session.region_name or _DEFAULT_REGION, config=self._config)

    def _ask(self, request: "Callable[[S3Client], T]") -> T:
        """Send a request; once more, with credentials that are looked for anew, if those at hand have expired.

        boto3 renews those of roles by itself, but reads those of files and of the environment once in a client's life.
        """
        client = self._client
        try:
            return request(client)
        except boto.ClientError as error:
            if error.response["Error"].get("Code") not in EXPIRED_CODES:
                raise
            earlier = error.response["ResponseMetadata"]["RetryAttempts"] + 1
        with self._lock:
            if client is self._client and time.monotonic() - self._connected_s > _RECONNECT_S:
                # the other one is left to those who use it
                self._client, self._connected_s = self._connect(), time.monotonic()
        try:
            return request(self._client)
        except boto.ClientError as error:
            error.response["ResponseMetadata"]["RetryAttempts"] += earlier
            raise

    @property
    def url(self) -> str:
        """`s3://BUCKET/PREFIX`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str, *, most_bytes: int = MAX_GET_BYTES) -> bytes:
        """Return a whole object. Raises NotFoundError, CorruptObjectError."""
        return self._read(key, {}, most_bytes)[0]

    def get_range(self, key: str, offset_bytes: int, size_bytes: int, *, may_end: bool = False) -> bytes:
        """Return exactly `size_bytes` bytes from an offset. Raises NotFoundError, CorruptObjectError."""
        asked = f"bytes={offset_bytes}-{offset_bytes + size_bytes - 1}"
        body, content_range = self._read(key, {"Range": asked}, size_bytes)
        # a server that knows no ranges answers with the whole object
        if not content_range.startswith(f"bytes {offset_bytes}-"):
            raise StoreError(f"asked for {asked} of {self._name(key)}, the server sent {content_range or 'everything'}")
        if len(body) > size_bytes or (len(body) < size_bytes and not (may_end and _is_end(content_range))):
            raise CorruptObjectError(f"asked for {asked} of {self._name(key)}, which has {content_range}")
        return body

    def _read(self, key: str, arguments: dict[str, Any], most_bytes: int) -> tuple[bytes, str]:
        """Return the body of an answer, and the range that it is of (empty: the whole).

        Raises:
            CorruptObjectError: It would be longer than `most_bytes`, and is not read.
        """
        with self._errors("read", key):
            tries = 0
            while True:
                tries += 1
                answer = self._ask(
                    lambda client: client.get_object(Bucket=self._bucket, Key=self._prefix + key, **arguments)
                )
                try:
                    with closing(answer["Body"]) as body:
                        content_range = answer.get("ContentRange", "")
                        size_bytes = answer.get("ContentLength")
                        if size_bytes is None or (arguments and not content_range):
                            # a body without an end that is known, or of an object that was asked for a range of
                            data = _read_at_most(body, most_bytes)
                            if len(data) > most_bytes and not arguments:
                                raise CorruptObjectError(
                                    f"{self._name(key)} has more than the at most {most_bytes} bytes"
                                )
                            return data, content_range
                        if size_bytes > most_bytes:
                            raise CorruptObjectError(f"{self._name(key)}: {size_bytes} bytes, asked for {most_bytes}")
                        return body.read(), content_range
                except _CONNECTION_ERRORS:
                    # boto3 tries again only until the first byte of an answer
                    if tries >= self._attempts:
                        raise

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing one of that key."""
        with self._errors("write", key):
            self._put(key, body, {})

    def create(self, key: str, body: bytes) -> None:
        """Write an object that must not exist.

        Raises:
            AlreadyExistsError: It existed before the first request was sent.
            UnsafeStoreError: The server knows no conditional writes, and says so.
        """
        with self._errors("create", key):
            try:
                self._put(key, body, {"IfNoneMatch": "*"})
            except boto.ClientError as error:
                answer = error.response["ResponseMetadata"]
                if answer["HTTPStatusCode"] == 501:
                    raise UnsafeStoreError(f"the server of {self.url} has no conditional writes") from error
                # a request sent again after its reply was lost meets the object that it has made itself
                if answer["HTTPStatusCode"] == 412 and answer["RetryAttempts"] > 0:
                    fact = f"{self._name(key)} exists, perhaps by an attempt of ours whose reply was lost"
                    raise StoreUnavailableError(fact) from error
                raise

    def _put(self, key: str, body: bytes, arguments: dict[str, Any]) -> None:
        checksum = base64.b64encode(crc32c(body).to_bytes(4, "big")).decode()
        self._ask(
            lambda client: client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=PacedBody(body, self._pace) if self._pace else body,
                ChecksumCRC32C=checksum,
                **self._put_arguments,
                **arguments,
            )
        )

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix` and is greater than `after`, in key order.

        Raises:
            StoreError: The server does not list in key order.
        """
        while limit is None or limit > 0:
            rows, is_last = self._page(prefix, after, _BATCH_KEYS if limit is None else min(limit, _BATCH_KEYS))
            for row in rows:
                if row.key <= after:
                    raise StoreError(f"{self.url} is not listed in the order of its keys ({row.key} after {after})")
                after = row.key
                # consoles make empty objects of such names to stand for folders
                if row.key.endswith("/"):
                    continue
                yield row
                if limit is not None:
                    limit -= 1
            if is_last:
                return

    def _page(self, prefix: str, after: str, count: int) -> tuple[Sequence[ObjectInfo], bool]:
        """Return one page of a listing, and whether it is the last."""
        start: dict[str, Any] = {"StartAfter": self._prefix + after} if after else {}
        with self._errors("list", prefix):
            answer = self._ask(
                lambda client: client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=count, **start
                )
            )
        try:
            found = answer.get("Contents", [])
            rows = [ObjectInfo(row["Key"].removeprefix(self._prefix), row["Size"]) for row in found]
            return rows, not (answer["IsTruncated"] and rows)
        except KeyError as error:
            raise StoreUnavailableError(f"cannot list {self._name(prefix)}: the answer lacks {error}") from error

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._errors("delete", key):
            self._ask(lambda client: client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete any number of objects, up to 1000 in a request."""
        for start in range(0, len(keys), _BATCH_KEYS):
            self._delete_batch(keys[start : start + _BATCH_KEYS])

    def _delete_batch(self, keys: Sequence[str]) -> None:
        objects: Sequence[ObjectIdentifierTypeDef] = [{"Key": self._prefix + key} for key in keys]
        with self._errors("delete", keys[0]):
            answer = self._ask(
                lambda client: client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            )
        # the request succeeds even if nothing was deleted
        for refused in answer.get("Errors", []):
            key = refused["Key"].removeprefix(self._prefix)
            fact = f"cannot delete {self._name(key)}: {_words(refused.get('Message', ''))} ({refused['Code']})"
            # no status comes with the code, which is AccessDenied or a passing one as InternalError
            raise error_of(refused["Code"], 403 if refused["Code"] == "AccessDenied" else 500, fact)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _name(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    @contextmanager
    def _errors(self, operation: str, key: str = "") -> Iterator[None]:
        """Turn every error of boto3 into one of ckptfs."""
        what = f"cannot {operation} {self._name(key)}"
        try:
            yield
        except boto.ClientError as error:
            code, words = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            raise error_of(code, status, f"{what}: {_words(words)} ({code}, HTTP {status})") from error
        except ResponseParserError as error:
            # an answer that is no XML: cut or damaged on its way, or by something between us and the server
            raise StoreUnavailableError(f"{what}: {_words(error)}") from error
        except boto.SSLError as error:
            raise StoreUnavailableError(f"{what}: {_words(error)}", hint=_HINT_CERTIFICATE) from error
        except _CONNECTION_ERRORS as error:
            raise StoreUnavailableError(f"{what}: {_words(error)}") from error
        except _CREDENTIAL_ERRORS as error:
            raise StoreAccessError(f"{what}: {_words(error)}", hint=_HINT_CREDENTIALS) from error
        # ValueError: an endpoint URL that is none
        except (boto.BotoCoreError, ValueError) as error:
            raise StoreError(f"{what}: {_words(error)}", hint="check AWS_ENDPOINT_URL and ~/.aws/config") from error


def _read_at_most(body: "StreamingBody", most_bytes: int) -> bytes:
    """Return the beginning of a body, at most a byte more than it should have."""
    pieces = []
    left_bytes = most_bytes + 1
    while left_bytes > 0 and (piece := body.read(min(left_bytes, _PIECE_BYTES))):
        pieces.append(piece)
        left_bytes -= len(piece)
    return b"".join(pieces)


def _is_end(content_range: str) -> bool:
    """Tell whether `bytes FIRST-LAST/SIZE` ends with the object."""
    last, _, size = content_range.rpartition("-")[2].partition("/")
    return last.isdigit() and size.isdigit() and int(last) + 1 == int(size)


def _words(message: object) -> str:
    """Return somebody else's message as one short line, without the user and password of a URL."""
    line = " ".join(str(message).split()).rstrip(".")
    return re.sub(r"//[^/@\s\"']+@", "//", line)[:300] or "no reason given"
