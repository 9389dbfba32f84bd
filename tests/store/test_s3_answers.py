"""How S3Store takes the answers of a server that is ill, slow, odd or in the middle of a race."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ckptfs.errors import (
    AlreadyExistsError,
    CkptfsError,
    CorruptObjectError,
    NotFoundError,
    StoreAccessError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from ckptfs.store.s3 import S3Store
from tests.store.stub_s3 import Answer, StubS3, hang, hang_up, ok, refusal, truncated


@pytest.fixture(scope="module")
def server() -> Iterator[StubS3]:
    with StubS3() as server:
        yield server


@pytest.fixture
def stub(server: StubS3, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> StubS3:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    server.answers, server.requests = [], []
    return server


@pytest.fixture(scope="module")
def once() -> Iterator[list[S3Store]]:
    """The store that all tests of this module share: making a client takes 0.2 s."""
    stores: list[S3Store] = []
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def store(stub: StubS3, once: list[S3Store]) -> S3Store:
    if not once:
        once.append(S3Store("bucket", "some/prefix", attempts=1, read_timeout_s=0.5))
    return once[0]


def retrying(attempts: int) -> S3Store:
    return S3Store("bucket", "some/prefix", attempts=attempts)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(400, "BadDigest"), StoreUnavailableError),
        (refusal(400, "RequestTimeout"), StoreUnavailableError),
        (refusal(400, "ExpiredToken"), StoreAccessError),
        (refusal(400, "AuthorizationHeaderMalformed"), StoreError),
        (refusal(400, "InvalidBucketName"), StoreMissingError),
        (refusal(400, "EntityTooLarge"), StoreError),
        (refusal(401, "Unauthorized"), StoreAccessError),
        (refusal(403, "AccessDenied"), StoreAccessError),
        (refusal(403, "InvalidAccessKeyId"), StoreAccessError),
        (refusal(403, "SignatureDoesNotMatch"), StoreAccessError),
        (refusal(403, "RequestTimeTooSkewed"), StoreAccessError),
        (refusal(403, "InvalidObjectState"), StoreError),
        (refusal(404, "NoSuchKey"), NotFoundError),
        (refusal(404, "NoSuchBucket"), StoreMissingError),
        (ok(b"<html>nothing here</html>", status=404), StoreError),
        (refusal(409, "OperationAborted"), StoreUnavailableError),
        (refusal(429, "TooManyRequests"), StoreUnavailableError),
        (refusal(500, "InternalError"), StoreUnavailableError),
        (refusal(501, "NotImplemented"), StoreError),
        (ok(b"<html>bad gateway</html>", status=502), StoreUnavailableError),
        (refusal(503, "SlowDown"), StoreUnavailableError),
        (hang_up, StoreUnavailableError),
        (hang(1.5), StoreUnavailableError),
    ],
)
def test_every_refusal_is_one_error_that_names_the_object(
    stub: StubS3, store: S3Store, answer: Answer, error: type[StoreError]
) -> None:
    stub.answers = [answer]
    with pytest.raises(CkptfsError) as caught:
        store.get("p/one")
    assert type(caught.value) is error
    assert "s3://bucket/some/prefix/p/one" in caught.value.fact or stub.endpoint in caught.value.fact
    assert "a-secret-key" not in f"{caught.value.fact} {caught.value.hint}"


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("RequestTimeTooSkewed", "clock"),
        ("ExpiredToken", "renew"),
        ("AccessDenied", "ListBucket"),
    ],
)
def test_a_refused_credential_comes_with_the_remedy(stub: StubS3, store: S3Store, code: str, word: str) -> None:
    stub.answers = [refusal(403, code)]
    with pytest.raises(StoreAccessError) as caught:
        next(store.list("c/"))
    assert word in str(caught.value.hint)
    assert code in caught.value.fact


def test_credentials_that_have_expired_are_looked_for_again(
    stub: StubS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setattr("ckptfs.store.s3._RECONNECT_S", 0.0)
    credentials.write_text("[default]\naws_access_key_id = former\naws_secret_access_key = any\n")
    store = retrying(1)
    credentials.write_text("[default]\naws_access_key_id = later\naws_secret_access_key = any\n")
    stub.answers = [refusal(403, "ExpiredToken"), ok(b"body")]
    assert store.get("p/one") == b"body"
    keys = [str(request.headers["Authorization"]).split("/")[0] for request in stub.requests]
    assert [key.rpartition("=")[2] for key in keys] == ["former", "later"]
    # the first attempt may have made the object before its answer was lost
    stub.answers = [refusal(403, "ExpiredToken"), refusal(412, "PreconditionFailed")]
    with pytest.raises(StoreUnavailableError, match="reply was lost"):
        store.create("c/1", b"body")
    stub.answers = [refusal(403, "ExpiredToken")]
    with pytest.raises(StoreAccessError):
        store.get("p/one")
    store.close()


def test_create_is_refused_as_existing_only_if_no_attempt_of_its_own_can_have_made_the_object(stub: StubS3) -> None:
    store = retrying(2)
    stub.answers = [refusal(412, "PreconditionFailed")]
    with pytest.raises(AlreadyExistsError):
        store.create("c/1", b"body")
    # the first attempt may have made the object before the server failed
    stub.answers = [refusal(500, "InternalError"), refusal(412, "PreconditionFailed")]
    with pytest.raises(StoreUnavailableError, match="reply was lost"):
        store.create("c/1", b"body")
    store.close()


def test_a_create_that_meets_another_in_progress_has_no_known_outcome(stub: StubS3, store: S3Store) -> None:
    stub.answers = [refusal(409, "ConditionalRequestConflict")]
    with pytest.raises(StoreUnavailableError):
        store.create("c/1", b"body")
    assert len(stub.requests) == 1


def test_a_server_that_knows_no_conditional_writes_is_unsafe(stub: StubS3, store: S3Store) -> None:
    stub.answers = [refusal(501, "NotImplemented", "A header you provided implies functionality")]
    with pytest.raises(UnsafeStoreError) as caught:
        store.create("c/1", b"body")
    assert "--unsafe-single-writer" in str(caught.value.hint)


def test_a_request_is_sent_a_bounded_number_of_times(stub: StubS3) -> None:
    store = retrying(2)
    stub.answers = [refusal(503, "SlowDown")]
    with pytest.raises(StoreUnavailableError):
        store.put("p/one", b"body")
    assert len(stub.requests) == 2
    assert [request.body for request in stub.requests] == [b"body", b"body"]
    store.close()


def test_a_body_that_ends_early_is_asked_for_again(stub: StubS3) -> None:
    store = retrying(2)
    stub.answers = [truncated(b"012", declared_bytes=10), ok(b"0123456789")]
    assert store.get("p/one") == b"0123456789"
    store.close()


def test_a_body_that_always_ends_early_is_an_error_and_no_short_answer(stub: StubS3) -> None:
    store = retrying(2)
    stub.answers = [truncated(b"012", declared_bytes=10)]
    with pytest.raises(StoreUnavailableError, match="p/one"):
        store.get("p/one")
    assert len(stub.requests) == 2
    store.close()


def test_a_server_that_ignores_ranges_is_found_out(stub: StubS3, store: S3Store) -> None:
    stub.answers = [ok(b"0123456789")]
    with pytest.raises(StoreError, match="everything"):
        store.get_range("p/one", 4, 3)


@pytest.mark.parametrize("content_range", ["bytes 4-5/6", "bytes 4-9/10"])
def test_a_range_of_another_length_is_damage(stub: StubS3, store: S3Store, content_range: str) -> None:
    stub.answers = [ok(b"45", status=206, Content_Range=content_range)]
    with pytest.raises(CorruptObjectError):
        store.get_range("p/one", 4, 3)


def test_a_range_from_another_offset_is_refused(stub: StubS3, store: S3Store) -> None:
    stub.answers = [ok(b"012", status=206, Content_Range="bytes 0-2/10")]
    with pytest.raises(StoreError, match="bytes 0-2/10"):
        store.get_range("p/one", 4, 3)


def test_a_put_carries_a_signed_checksum_and_the_plain_body(stub: StubS3, store: S3Store) -> None:
    stub.answers = [ok()]
    store.put("p/one", b"123456789")
    store.create("c/1", b"")
    put, create = stub.requests
    assert put.path == "/bucket/some/prefix/p/one"
    assert put.body == b"123456789"
    # the check value of CRC-32C, 0xE3069283
    assert put.headers["x-amz-checksum-crc32c"] == "4waSgw=="
    assert "x-amz-checksum-crc32c" in put.headers["Authorization"]
    assert put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert put.headers["Content-Encoding"] is None
    assert put.headers["If-None-Match"] is None
    assert create.headers["If-None-Match"] == "*"


def test_a_listing_asks_page_after_page_and_leaves_folder_markers_out(stub: StubS3, store: S3Store) -> None:
    stub.answers = [
        ok(_page(["c/", "c/1", "c/2"], truncated=True)),
        ok(_page(["c/3"], truncated=False)),
    ]
    assert [row.key for row in store.list("c/")] == ["c/1", "c/2", "c/3"]
    first, second = stub.requests
    assert "max-keys=1000" in first.path
    assert "start-after" not in first.path
    assert "start-after=some%2Fprefix%2Fc%2F2" in second.path


def test_a_listing_of_one_is_one_request_for_one_key(stub: StubS3, store: S3Store) -> None:
    stub.answers = [ok(_page(["c/1"], truncated=True))]
    assert [row.key for row in store.list("c/", limit=1)] == ["c/1"]
    assert len(stub.requests) == 1
    assert "max-keys=1&" in stub.requests[0].path


@pytest.mark.parametrize("body", [b"<ListBucketResult><IsTrunc", b"<ListBucketResult/>", b"no XML"])
def test_a_listing_that_is_none_may_be_asked_for_again(stub: StubS3, store: S3Store, body: bytes) -> None:
    stub.answers = [ok(body)]
    with pytest.raises(StoreUnavailableError, match="cannot list s3://bucket/some/prefix/c/"):
        list(store.list("c/"))


def test_a_listing_out_of_order_is_refused(stub: StubS3, store: S3Store) -> None:
    stub.answers = [ok(_page(["c/2", "c/1"], truncated=False))]
    with pytest.raises(StoreError, match="order"):
        list(store.list("c/"))


@pytest.mark.parametrize(
    ("code", "error"), [("AccessDenied", StoreAccessError), ("InternalError", StoreUnavailableError)]
)
def test_a_delete_of_many_that_failed_for_one_is_a_failure(
    stub: StubS3, store: S3Store, code: str, error: type[StoreError]
) -> None:
    row = f"<Error><Key>some/prefix/p/2</Key><Code>{code}</Code><Message>No.</Message></Error>"
    stub.answers = [ok(f"<DeleteResult>{row}</DeleteResult>".encode())]
    with pytest.raises(error, match="p/2"):
        store.delete_many(["p/1", "p/2"])


def _page(names: list[str], *, truncated: bool) -> bytes:
    rows = "".join(f"<Contents><Key>some/prefix/{name}</Key><Size>1</Size></Contents>" for name in names)
    return f"<ListBucketResult><IsTruncated>{str(truncated).lower()}</IsTruncated>{rows}</ListBucketResult>".encode()


def endless(*, declared_bytes: int | None = None, **headers: str) -> tuple[Answer, list[int]]:
    """An answer that goes on until the client hangs up, and how much of it was sent."""
    sent = [0]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206 if headers else 200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if declared_bytes is not None:
            handler.send_header("Content-Length", str(declared_bytes))
        handler.end_headers()
        handler.close_connection = True
        while sent[0] < 1 << 30:
            handler.wfile.write(bytes(1 << 16))
            sent[0] += 1 << 16

    return answer, sent


@pytest.mark.parametrize("declared_bytes", [None, 1 << 40])
def test_an_answer_without_an_end_is_not_read_to_it(store: S3Store, stub: StubS3, declared_bytes: int | None) -> None:
    answer, sent = endless(declared_bytes=declared_bytes)
    stub.answers = [answer]
    with pytest.raises(CorruptObjectError, match=r"asked for 65536|at most 65536"):
        store.get("format.json", most_bytes=1 << 16)
    answer, sent_of_range = endless(declared_bytes=declared_bytes, Content_Range="bytes 0-99/1000")
    stub.answers = [answer]
    with pytest.raises(CorruptObjectError):
        store.get_range("p/one", 0, 100)
    # what the sockets of both sides hold is sent in vain
    assert max(sent[0], sent_of_range[0]) < 64 << 20
