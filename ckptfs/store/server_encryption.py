"""Encryption by S3 itself (SSE-S3, SSE-KMS): asked for with each object that is written, and nothing of the format."""

from typing import NamedTuple


class ServerEncryption(NamedTuple):
    """How S3 is to encrypt what is written. It decrypts by itself for whoever may read."""

    algorithm: str
    """`AES256` (SSE-S3) or `aws:kms` (SSE-KMS)."""
    kms_key_id: str | None = None
    """Of SSE-KMS; None: the account's own key for S3."""

    def arguments(self) -> dict[str, str]:
        """Return what is added to a PUT."""
        found = {"ServerSideEncryption": self.algorithm}
        if self.kms_key_id is not None:
            found["SSEKMSKeyId"] = self.kms_key_id
        return found
