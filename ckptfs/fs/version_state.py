"""What has become of one version: captured, uploading, durable or failed, as `.save` says it."""

from dataclasses import dataclass

from ckptfs.capture.guards import Slot
from ckptfs.format.commit import CommitRecord
from ckptfs.format.note import Note
from ckptfs.format.pending import PendingHeader


@dataclass(slots=True)
class VersionState:
    """What `.save` says of a version."""

    version: int
    state: str
    """captured, uploading, durable or failed."""
    note: Note = None
    error: str | None = None
    files: int = 0
    bytes: int = 0
    bytes_uploaded: int = 0
    kept_bytes: int = 0
    """Local disk that it keeps while it is pending."""
    slot: Slot | None = None
    commit_id: str = ""
    captured_s: float = 0.0
    """Wall clock time; 0 if it was durable before this mount."""

    @classmethod
    def of_record(cls, record: CommitRecord) -> "VersionState":
        """Return the state of a version that is in the store."""
        return cls(
            record.version,
            "durable",
            note=record.note,
            files=record.files,
            bytes=record.bytes,
            bytes_uploaded=record.bytes_added,
        )

    @classmethod
    def of_header(cls, header: PendingHeader, state: str) -> "VersionState":
        """Return the state of a version that was captured a moment ago."""
        return cls(
            header.version,
            state,
            note=header.note,
            files=header.files,
            bytes=header.bytes,
            commit_id=header.commit_id,
            captured_s=header.captured_ns / 1e9,
        )
