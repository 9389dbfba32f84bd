"""Pending versions: captured on local disk, not yet durable in the store (FORMAT.md 7).

A pending version appears by rename and is complete from then on; it is the only interface between the mount process,
which makes it, and the upload process, which discards it once its commit record exists.

    <version>.<generation>          closed: the upload process may take it
    <version>.<generation>.open     the touch that made it has not ended; after a crash it counts as captured

Invariants:
    N1  `data/<index>` holds the captured bytes at every moment: before a live file that is hard-linked here is changed,
        a private copy is renamed over `data/<index>`
    N2  a higher generation of a version replaces the lower one
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptfs.cache.durable import sync_path
from ckptfs.errors import CkptfsError, CorruptObjectError
from ckptfs.format.manifest import Part
from ckptfs.format.part import decode_part, encode_part
from ckptfs.format.pending import PendingHeader, decode_pending, encode_pending
from ckptfs.hashing import hash_bytes
from ckptfs.private import fill_private, write_private
from ckptfs.small_files import read_small

_OPEN = ".open"
_NAME = re.compile(rf"(\d{{10}})\.(\d{{4}})({re.escape(_OPEN)})?")


@dataclass(frozen=True, slots=True)
class PendingVersion:
    """One captured version on local disk."""

    directory: Path
    generation: int
    header: PendingHeader

    @property
    def version(self) -> int:
        """Its number."""
        return self.header.version

    @property
    def is_open(self) -> bool:
        """True while the touch that made it goes on."""
        return self.directory.name.endswith(_OPEN)

    def part(self) -> Part:
        """Return what changed since the version before, with local extents. Raises CorruptObjectError."""
        manifest = read_small(self.directory / "manifest")
        check_seal(self.directory, read_small(self.directory / "version.json"), manifest)
        return decode_part(manifest, local=True)

    def data_path(self, index: int) -> Path:
        """Return the path of a LocalData extent's bytes."""
        return self.directory / "data" / str(index)


def disk_bytes(status: os.stat_result) -> int:
    """Return the local disk that a file's bytes take: holes take none, and what is allocated past the end is none."""
    return min(status.st_size, status.st_blocks * 512)


def make_draft(draft: Path) -> None:
    """Make a directory for write_pending, with all that a version has. Raises OSError."""
    draft.mkdir(0o700)
    (draft / "data").mkdir(0o700)
    for name in ("manifest", "version.json", "seal"):
        write_private(draft / name, b"")


def write_pending(
    draft: Path, pending_root: Path, generation: int, header: PendingHeader, part: Part
) -> PendingVersion:
    """Complete a draft directory (make_draft, its `data/` filled) and make it a pending, open version.

    Nothing is fsynced: captured outlives processes, not the machine (docs/adr/0003).

    Raises:
        OSError: The disk is full or failing; the draft is left to the caller.
    """
    manifest, version = encode_part(part, local=True), encode_pending(header)
    # plain strings: pathlib would take a tenth of a small capture
    fill_private(f"{draft}/manifest", manifest)
    fill_private(f"{draft}/version.json", version)
    write_seal(draft, version, manifest)
    directory = pending_root / f"{header.version:010d}.{generation:04d}{_OPEN}"
    os.rename(draft, directory)
    return PendingVersion(directory, generation, header)


def write_seal(directory: Path, version: bytes, manifest: bytes) -> None:
    """Write down the hash of a version's description, so that damage to it is found. Raises OSError."""
    # as long as any that is there
    fill_private(f"{directory}/seal", _seal_of(version, manifest))


def check_seal(directory: Path, version: bytes, manifest: bytes) -> None:
    """Raise CorruptObjectError if a version's description is not what was written down."""
    try:
        sealed = read_small(directory / "seal")
    except FileNotFoundError:
        return  # an older ckptfs wrote it
    if sealed != _seal_of(version, manifest):
        raise CorruptObjectError("its version.json and manifest do not hash to its seal")


def _seal_of(version: bytes, manifest: bytes) -> bytes:
    return hash_bytes(hash_bytes(version) + hash_bytes(manifest)).hex().encode()


def close_pending(pending: PendingVersion) -> PendingVersion:
    """Hand an open version to the upload process."""
    if not pending.is_open:
        return pending
    closed = pending.directory.with_name(pending.directory.name[: -len(_OPEN)])
    os.rename(pending.directory, closed)
    return PendingVersion(closed, pending.generation, pending.header)


def list_pending(pending_root: Path) -> list[PendingVersion]:
    """Return the pending versions in ascending order, of each the highest generation; the others are removed.

    Raises:
        CorruptObjectError: A description does not decode.
    """
    newest: dict[int, tuple[int, Path]] = {}
    for version, generation, directory in sorted(_directories(pending_root)):
        if version in newest:
            shutil.rmtree(newest[version][1], ignore_errors=True)
        newest[version] = (generation, directory)
    found = []
    for _, (generation, directory) in sorted(newest.items()):
        try:
            header = decode_pending(read_small(directory / "version.json"))
        except FileNotFoundError:
            if directory.exists():
                raise CorruptObjectError(f"{directory} has no version.json") from None
            # discarded, replaced or closed since it was listed: what comes after it must not be taken for the next one
            return list_pending(pending_root)
        found.append(PendingVersion(directory, generation, header))
    return found


def damaged_pending(pending_root: Path) -> list[tuple[Path, str]]:
    """Return the directories of versions whose description cannot be read, and why. Nobody else is at work there."""
    found = []
    for _, _, directory in sorted(_directories(pending_root)):
        try:
            PendingVersion(directory, 0, decode_pending((directory / "version.json").read_bytes())).part()
        except FileNotFoundError as error:
            found.append((directory, f"it has no {Path(error.filename).name}"))
        except CorruptObjectError as error:
            found.append((directory, error.fact))
    return found


def pending_numbers(pending_root: Path) -> set[int]:
    """Return the numbers of the pending versions, whatever their state."""
    return {version for version, _, _ in _directories(pending_root)}


def commit_ids(root: Path) -> set[str]:
    """Return the commit ids of the versions in a directory, of those that can be read."""
    found = set()
    for directory in root.iterdir():
        try:
            found.add(decode_pending((directory / "version.json").read_bytes()).commit_id)
        except (OSError, CkptfsError):
            continue  # damaged: what it was to be committed as cannot be known
    return found


def discard_pending(pending: PendingVersion) -> None:
    """Remove a version that is durable or replaced. Its name goes first, so that no half of it is ever listed."""
    doomed = pending.directory.parent / f"discarded-{pending.directory.name}"
    try:
        pending.directory.rename(doomed)
    except FileNotFoundError:
        return
    _remove(doomed)


def sweep_pending(pending_root: Path) -> None:
    """Remove drafts and half-removed versions that a crash left."""
    for entry in os.scandir(pending_root):
        if not _NAME.fullmatch(entry.name):
            shutil.rmtree(entry.path, ignore_errors=True)


def sync_pending(pending: PendingVersion) -> None:
    """Make a pending version outlive the machine's next restart: fsync all of it, then say so."""
    for path in [
        *(pending.directory / "data").iterdir(),
        *(path for path in pending.directory.iterdir() if path.is_file()),
    ]:
        sync_path(path)
    (pending.directory / "synced").touch()
    for path in (pending.directory / "data", pending.directory, pending.directory.parent):
        sync_path(path)


def is_synced(pending: PendingVersion) -> bool:
    """True if sync_pending completed for it."""
    return (pending.directory / "synced").exists()


def _directories(pending_root: Path) -> Iterator[tuple[int, int, Path]]:
    for name in os.listdir(pending_root):
        if match := _NAME.fullmatch(name):
            yield int(match[1]), int(match[2]), pending_root / name


def _remove(directory: Path) -> None:
    """Remove a version's directory, in 9 system calls where shutil.rmtree takes 27."""
    try:
        for below in (f"{directory}/data", f"{directory}"):
            for name in os.listdir(below):
                os.unlink(f"{below}/{name}")
            os.rmdir(below)
    except OSError:
        # something else is in it, or missing
        shutil.rmtree(directory, ignore_errors=True)
