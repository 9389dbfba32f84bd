"""What the tests of the command line are made of: a store with versions, and runs of the program."""

import atexit
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ckptfs.cache.pending import PendingVersion, close_pending, write_pending
from ckptfs.format.manifest import Entry, Kind, LocalData, Part
from ckptfs.format.note import Note
from ckptfs.format.pending import PendingHeader
from ckptfs.store.open import open_store
from ckptfs.transfer.upload import VersionUploader
from ckptfs.versions.leasing import Holder
from ckptfs.versions.opening import PLAIN, Access
from ckptfs.versions.writer import Writer

MTIME_NS = 1_790_000_000_123_456_789


_PROGRESS = re.compile(r"[a-z ]+: \d+ of \d+$")
_CACHE = tempfile.TemporaryDirectory(prefix="ckptfs-test-cache-")
# said, or Python warns of it at the end
atexit.register(_CACHE.cleanup)


class Run(NamedTuple):
    """A finished run of the program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, decoded."""
        return json.loads(self.out)


def ckptfs(*arguments: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> Run:
    """Run the program as a user does."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ckptfs", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=os.environ
        | _own_cache(arguments)
        | {"CKPTFS_DEBUG": "", "XDG_CONFIG_HOME": "/nonexistent", "TZ": "UTC"}
        | dict(env or {}),
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def _own_cache(arguments: Sequence[str | Path]) -> dict[str, str]:
    """Keep what commands remember of stores out of the cache directory of whoever runs the tests."""
    reads = set(arguments) & {"log", "show", "diff", "restore", "tag", "verify"}
    return {"CKPTFS_CACHE_DIR": _CACHE.name} if reads else {}


def assert_failed(run: Run, fact: str, hint: str | None = None) -> None:
    """Check that a run failed in the one form that failures have; how far it had come may stand before that."""
    assert run.code == 1, run
    lines = [line for line in run.err.splitlines() if not _PROGRESS.match(line)]
    assert lines[0].startswith("ckptfs: error: "), run.err
    assert fact in lines[0]
    assert len(lines) <= 2, run.err
    if hint is not None:
        assert lines[1].startswith("  hint: ")
        assert hint in lines[1]


def capture(
    directory: Path, version: int, files: Mapping[str, bytes], *, before: Mapping[str, bytes], note: Note
) -> PendingVersion:
    """Make a pending version as a mount does: the root, and the files that changed."""
    draft = directory / f"draft-{secrets.token_hex(4)}"
    (draft / "data").mkdir(parents=True)
    entries = [Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=MTIME_NS)]
    for index, (name, content) in enumerate(sorted(files.items())):
        (draft / "data" / str(index)).write_bytes(content)
        extents = (LocalData(len(content), index),) if content else ()
        path = os.fsencode(name)
        if b"/" in path:
            above = path.rpartition(b"/")[0]
            entries.append(Entry(path=above, kind=Kind.DIRECTORY, mode=0o755, mtime_ns=MTIME_NS))
        entries.append(
            Entry(
                path=path, kind=Kind.FILE, mode=0o644, size_bytes=len(content), extents=extents,
                mtime_ns=MTIME_NS, uid=os.getuid(), gid=os.getgid(),
            )
        )  # fmt: skip
    whole = {**before, **files}
    header = PendingHeader(
        version=version,
        commit_id=secrets.token_hex(16),
        captured_ns=MTIME_NS + version * 10**9,
        note=note,
        files=len(whole),
        bytes=sum(map(len, whole.values())),
        boot="this boot",
    )
    unique = {entry.path: entry for entry in entries}
    part = Part(tuple(sorted(unique.values(), key=lambda entry: entry.path)))
    return close_pending(write_pending(draft, directory, 0, header, part))


class StoreWithVersions:
    """A store in a directory, to which versions are added as the upload process does."""

    def __init__(self, directory: Path, access: Access = PLAIN) -> None:
        self.directory = directory / "store"
        self.url = f"file://{self.directory}"
        self._pending = directory / "pending"
        self._pending.mkdir()
        store = open_store(self.url, create=True)
        holder = Holder(host="gpu-07", pid=4121, machine="another boot", lock="/cache/lock", lock_id="8:1")
        self._writer = Writer.acquire(store, holder, access=access)
        self._store = self._writer.history.store
        self._version = 0
        self._files: dict[str, bytes] = {}

    def save(self, files: Mapping[str, bytes], note: Note = None) -> int:
        """Write files and save; return the version's number."""
        self._version += 1
        pending = capture(self._pending, self._version, files, before=self._files, note=note)
        self._files |= files
        VersionUploader(self._store, self._writer, self._writer.history).upload(pending)
        return self._version
