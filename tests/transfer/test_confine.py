"""A confined process changes nothing elsewhere, and has few capabilities; uploads work all the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptfs.transfer.confine import KEPT_CAPABILITIES
from tests.mounting import Mounts

_PROGRAM = """
import ctypes, json, os, sys
from pathlib import Path
from ckptfs.transfer.confine import confine

inside, outside = map(Path, sys.argv[1:])
confine([inside, inside / "absent"])

def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return os.strerror(error.errno)

(inside / "a").mkdir()
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "write": attempt(lambda: (inside / "a" / "file").write_text("x")),
    "rename": attempt(lambda: (inside / "a" / "file").rename(inside / "file")),
    "truncate": attempt(lambda: os.truncate(inside / "file", 0)),
    "read outside": attempt(lambda: (outside / "there").read_text()),
    "write outside": attempt(lambda: (outside / "there").write_text("y")),
    "truncate outside": attempt(lambda: os.truncate(outside / "there", 0)),
    "make outside": attempt(lambda: (outside / "new").touch()),
    "remove outside": attempt(lambda: (outside / "there").unlink()),
    "move out": attempt(lambda: (inside / "file").rename(outside / "file")),
    "in a child": os.system(f"sh -c 'echo y >{outside}/child' 2>/dev/null") != 0,
    "mount": libc.mount(b"none", bytes(inside), b"tmpfs", 0, None),
}))
"""


def test_it_changes_files_in_its_places_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "there").write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, inside, outside], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    denied = "Permission denied"
    assert json.loads(done.stdout) == {
        "write": "done",
        "rename": "done",
        "truncate": "done",
        "read outside": "done",
        "write outside": denied,
        "truncate outside": denied,
        "make outside": denied,
        "remove outside": denied,
        "move out": denied,
        "in a child": True,
        "mount": -1,
    }
    assert (outside / "there").read_text() == "x"
    assert os.listdir(outside) == ["there"]


@pytest.mark.fuse
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_versions_become_durable_through_a_confined_process(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = request.getfixturevalue("bucket") if kind == "s3" else None
    mounts = Mounts(tmp_path, 100.0, confine_upload=True)
    try:
        mount = mounts(store)
        (mount.root / "model").write_bytes(os.urandom(3_000_000))
        # a file of somebody else, who lets nobody in
        (mount.root / "private").write_bytes(b"weights")
        if os.geteuid() == 0:
            os.chown(mount.root / "private", 12345, 12345)
        (mount.root / "private").chmod(0o600)
        mount.save()
        mount.sync()
        pid = mount.upload_pid()
        assert pid is not None
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["CapEff"], 16) & ~KEPT_CAPABILITIES == 0
        assert int(status["CapPrm"], 16) & ~KEPT_CAPABILITIES == 0
        assert status["NoNewPrivs"] == "1"
        assert mount.unmount() == 0
        assert (mounts(store, cache="empty").root / "private").read_bytes() == b"weights"
    finally:
        mounts.close()
