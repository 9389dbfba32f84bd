"""What an S3 server's refusals mean: error code and HTTP status to one of ckptfs.errors. Pure: no boto3.

Where the code is one of S3's own (API reference, "Error responses") it decides, else the status does.
"""

from ckptfs.errors import (
    AlreadyExistsError,
    CorruptObjectError,
    NotFoundError,
    StoreAccessError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)

_HINT_EXPIRED = "renew them (`aws sso login`, a new session token), then try again"
_HINT_PERMISSIONS = (
    "these credentials need s3:GetObject, PutObject and DeleteObject on the prefix, and ListBucket on the bucket"
)
_HINT_REGION = "set AWS_REGION to the bucket's region"

EXPIRED_CODES = frozenset({"ExpiredToken", "TokenRefreshRequired"})
"""Credentials that were good: others may have been put in their place since."""

# each is a 400 or a 403 that has nothing to do with the object
_ACCESS_HINTS = {
    "InvalidAccessKeyId": "the server does not know this access key: check AWS_ACCESS_KEY_ID, AWS_PROFILE and endpoint",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY, AWS_PROFILE and the endpoint",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (`timedatectl status`)",
    "ExpiredToken": _HINT_EXPIRED,
    "InvalidToken": _HINT_EXPIRED,
    "TokenRefreshRequired": _HINT_EXPIRED,
}
_REGION_CODES = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
# the request came damaged or too slowly, or too many came: none of it was done, all of it may go well next time
_PASSING_CODES = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown"})


def error_of(code: str, status: int, fact: str) -> StoreError | CorruptObjectError:
    """Return the error that a refusal stands for.

    Args:
        code: S3's error code, or the HTTP status as text where the answer had no S3 error in it.
        status: The HTTP status.
        fact: What was asked of what, and the server's words.
    """
    if code == "NoSuchKey":
        return NotFoundError(fact)
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return StoreMissingError(fact, hint="create the bucket, or check its name and the endpoint")
    if code == "InvalidRange":
        return CorruptObjectError(fact)
    if code == "InvalidObjectState":
        return StoreError(fact, hint="the object is archived: restore it to a storage class that can be read at once")
    if code in _REGION_CODES:
        return StoreError(fact, hint=_HINT_REGION)
    if code in _ACCESS_HINTS or status in (401, 403):
        return StoreAccessError(fact, hint=_ACCESS_HINTS.get(code, _HINT_PERMISSIONS))
    if code == "PreconditionFailed" or status == 412:
        return AlreadyExistsError(fact)
    if code == "NotImplemented" or status == 501:
        return StoreError(fact, hint="the server does not implement all that ckptfs needs of S3")
    # 409: the outcome of another conditional write to the key is still open, and so is that of this one
    if code in _PASSING_CODES or status in (408, 409, 429) or status >= 500:
        return StoreUnavailableError(fact)
    if status == 404:
        return StoreError(fact, hint="is the endpoint an S3 server? `ckptfs doctor STORE` checks it")
    return StoreError(fact)
