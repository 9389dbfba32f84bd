"""What a cache directory still holds that is in no version of the store: found, described, and copied out.

Three things are kept, and nothing here changes them:

    pending     captured, waiting for upload; the next mount with this cache directory finishes it
    aside       captured, but history went another way: it can never enter it
    unsaved     files as they were when a crash or a restore left them, never captured; those that no mount has taken up
                since are still in the live tree
"""

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import PendingVersion, commit_ids
from ckptfs.capture.copying import copy_data
from ckptfs.capture.journal import read_journal
from ckptfs.capture.real_paths import RealPaths
from ckptfs.errors import CacheError, CkptfsError, InvalidInputError
from ckptfs.format.manifest import Entry, Kind, LocalData
from ckptfs.format.note import Note
from ckptfs.format.pending import decode_pending
from ckptfs.transfer.materialize import TreeWriter

# of some 100 bytes each: far below what one command line takes (128 KiB at least)
_PATHS_AT_ONCE = 500

KeptKind = Literal["pending", "aside", "unsaved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One thing that was kept."""

    kind: KeptKind
    directory: Path
    time_ns: int
    """When it was captured or set aside."""
    paths: tuple[bytes, ...]
    """Files whose bytes are here, sorted."""
    bytes: int
    """The sum of their sizes."""
    version: int | None = None
    commit_id: str = ""
    note: Note = None
    elsewhere: int = 0
    """Files that it changed in name or attributes only: their bytes are those of an earlier version."""
    damage: str | None = None
    """Why it cannot be read."""
    is_live_tree: bool = False
    """The directory holds the whole live tree, of which the paths were never captured."""


def cache_directories(path: Path) -> list[CacheDirectory]:
    """Return the stores' directories that a path means: itself, or those in it.

    Raises:
        InvalidInputError: It is no cache directory.
    """
    here = CacheDirectory(path)
    found = [here] if _is_cache(here) else []
    if not found and path.is_dir():
        found = [each for each in map(CacheDirectory, sorted(path.iterdir())) if _is_cache(each)]
    if not found:
        raise InvalidInputError(
            f"{path} is neither a ckptfs mount nor a cache directory",
            hint="give the mount point, or what was given as --cache-dir",
        )
    return found


def list_kept(cache: CacheDirectory) -> list[Kept]:
    """Return what a store's cache directory keeps, oldest first."""
    kept = [*_pending(cache), *_versions(cache.aside, "aside"), *_unsaved(cache.unsaved), *_unsaved_in_tree(cache)]
    return sorted(kept, key=lambda each: each.time_ns)


def list_left(cache: CacheDirectory) -> list[Kept]:
    """Return what the last session has captured and the store does not have, in any order."""
    lost = cache.read_lost()
    return [*_pending(cache), *(each for each in _versions(cache.aside, "aside") if each.commit_id in lost)]


def copy_out(kept: Kept, target: Path) -> None:
    """Copy the files that are here, with their attributes, into a directory that must not exist.

    Raises:
        InvalidInputError: The target exists.
        CorruptObjectError: A captured version's description is damaged.
        OSError: It cannot be read or written.
    """
    if os.path.lexists(target):
        raise InvalidInputError(f"{target} exists already", hint="name a new directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_live_tree:
        target.mkdir()
        for start in range(0, len(kept.paths), _PATHS_AT_ONCE):
            _cp(["--parents", "--", *kept.paths[start : start + _PATHS_AT_ONCE], target.absolute()], kept.directory)
    elif kept.kind == "unsaved":
        _cp(["--", kept.directory.absolute(), target.absolute()], kept.directory)
    else:
        _copy_version(_read_version(kept.directory), target)


def _cp(arguments: Sequence[str | bytes | Path], directory: Path) -> None:
    """Copy in a directory; cp knows holes, links, owners, times and xattrs of every kind of file. Raises CacheError."""
    done = subprocess.run(["cp", "-a", "--reflink=auto", *arguments], cwd=directory, capture_output=True, check=False)
    if done.returncode != 0:
        raise CacheError(f"copying {directory} failed: {done.stderr.decode(errors='replace').strip()}")


def _is_cache(cache: CacheDirectory) -> bool:
    return cache.pending.is_dir() and cache.aside.is_dir() and cache.unsaved.is_dir()


def _pending(cache: CacheDirectory) -> Iterator[Kept]:
    lost = cache.read_lost()
    for each in _versions(cache.pending, "pending"):
        # the next mount puts it there
        yield replace(each, kind="aside") if each.commit_id in lost else each


def _versions(root: Path, kind: KeptKind) -> Iterator[Kept]:
    for directory in root.iterdir():
        # drafts have none yet
        if not (directory / "version.json").exists():
            continue
        try:
            pending = _read_version(directory)
            entries = pending.part().entries
        except FileNotFoundError:
            continue  # uploaded since it was listed
        except CkptfsError as error:
            time_ns = directory.stat().st_mtime_ns
            yield Kept(kind=kind, directory=directory, time_ns=time_ns, paths=(), bytes=0, damage=error.fact)
            continue
        files = [entry for entry in entries if entry.kind is Kind.FILE]
        local = [entry for entry in files if _is_local(entry)]
        yield Kept(
            kind=kind,
            directory=directory,
            time_ns=pending.header.captured_ns,
            paths=tuple(entry.path for entry in local),
            bytes=sum(entry.size_bytes for entry in local),
            version=pending.version,
            commit_id=pending.header.commit_id,
            note=pending.header.note,
            elsewhere=len(files) - len(local),
        )


def _unsaved(root: Path) -> Iterator[Kept]:
    for directory in root.iterdir():
        paths, size_bytes = [], 0
        for parent, _, names in os.walk(os.fsencode(directory)):
            for name in names:
                path = os.path.join(parent, name)
                paths.append(os.path.relpath(path, os.fsencode(directory)))
                size_bytes += os.lstat(path).st_size
        yield Kept(
            kind="unsaved",
            directory=directory,
            time_ns=_set_aside_ns(directory),
            paths=tuple(sorted(paths)),
            bytes=size_bytes,
        )


def _unsaved_in_tree(cache: CacheDirectory) -> Iterator[Kept]:
    """Find what the last mount left in the live tree without capturing it; what a mount shows now is not meant."""
    state = None if cache.is_in_use else read_journal(cache.journal)
    if state is None:
        return
    if state.intended is not None and state.intended[1] in commit_ids(cache.pending) | commit_ids(cache.aside):
        state.adopt_intended()
    found: dict[bytes, int] = {}
    root_fd = os.open(cache.live, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        real_paths = RealPaths(root_fd)
        for path in state.content | state.names:
            for name, status in _files_at(real_paths, cache.live, path):
                # those without data are in a version; a name that is new may be all that is
                if status.st_ino not in state.stubs:
                    found[name] = status.st_size
    finally:
        os.close(root_fd)
    if found:
        yield Kept(
            kind="unsaved",
            directory=cache.live,
            time_ns=cache.journal.stat().st_mtime_ns,
            paths=tuple(sorted(found)),
            bytes=sum(found.values()),
            is_live_tree=True,
        )


def _files_at(real_paths: RealPaths, root: Path, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the path, or what is below it, but for directories, and for what lies behind a symlink."""
    try:
        status = real_paths.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(status.st_mode):
        yield path, status
    # the root is named when only its attributes changed
    for name in os.listdir(os.path.join(os.fsencode(root), path)) if stat.S_ISDIR(status.st_mode) and path else ():
        yield from _files_at(real_paths, root, os.path.join(path, name))


def _set_aside_ns(directory: Path) -> int:
    """Return the time in a directory's name (20261123T211500Z-...), else when it was last changed."""
    try:
        time = datetime.strptime(directory.name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return directory.stat().st_mtime_ns
    return int(time.timestamp()) * 10**9


def _read_version(directory: Path) -> PendingVersion:
    header = decode_pending((directory / "version.json").read_bytes())
    return PendingVersion(directory, 0, header)


def _is_local(entry: Entry) -> bool:
    return not entry.extents or isinstance(entry.extents[0], LocalData)


def _copy_version(pending: PendingVersion, target: Path) -> None:
    """Write the entries of a captured version whose content is here."""
    made: set[bytes] = set()
    first_names: dict[int, bytes] = {}
    with TreeWriter(target) as writer:
        for entry in pending.part().entries:
            _make_parents(writer, entry.path, made)
            if entry.kind is Kind.DIRECTORY:
                made.add(entry.path)
                writer.make_directory(entry)
                continue
            if entry.kind is Kind.FILE and not _is_local(entry):
                continue
            first = first_names.setdefault(entry.link_id, entry.path) if entry.link_id else entry.path
            if first != entry.path:
                writer.make_link(entry.path, first)
            elif entry.kind is Kind.FILE:
                _copy_file(writer, pending, entry)
            else:
                writer.make_node(entry)
        writer.finish()


def _make_parents(writer: TreeWriter, path: bytes, made: set[bytes]) -> None:
    """Make the directories above a path that the version did not change, and so does not describe."""
    above = path.rpartition(b"/")[0]
    if above and above not in made:
        _make_parents(writer, above, made)
        made.add(above)
        writer.make_directory(Entry(path=above, kind=Kind.DIRECTORY, mode=0o755), keep_existing=True)


def _copy_file(writer: TreeWriter, pending: PendingVersion, entry: Entry) -> None:
    temporary = writer.create_temporary(entry.path, entry.size_bytes)
    if entry.extents and isinstance(extent := entry.extents[0], LocalData):
        source_fd = os.open(pending.data_path(extent.index), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            target_fd = writer.open_file(temporary, os.O_WRONLY)
            try:
                copy_data(source_fd, target_fd, entry.size_bytes)
                # a reflink is as long as the source, which may have been appended to
                os.ftruncate(target_fd, entry.size_bytes)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)
    writer.publish(temporary, replace(entry, extents=()))
