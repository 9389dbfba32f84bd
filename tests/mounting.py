"""Mounts for tests: each is a process of its own that is killed and unmounted at the end, whatever happens.

Whoever touches a mount that hangs hangs with it, out of reach of pytest's time-out; so every mount has a deadline, at
which its process is killed: that ends all requests in it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ckptfs.fs.options import MountOptions
from ckptfs.mount_table import mounts

TRANSPORT = os.environ.get("CKPTFS_TEST_TRANSPORT", "auto")
"""Of every mount that a test does not choose one for."""

_END_TIMEOUT_S = 60.0


_CHECK_APART = """
import os, subprocess, sys
from ckptfs.mount_table import mounts
for mount in mounts():
    if str(mount.mountpoint) not in sys.argv[1:]:
        subprocess.run(["umount", "-l", mount.mountpoint], check=False)
os.execv(sys.executable, [sys.executable, "-m", "ckptfs", "status", "--check"])
"""


class MountFailedError(Exception):
    """A mount did not come to be; the facts are what its process said."""

    def __init__(self, fact: str, hint: str | None = None, number: int = 0) -> None:
        super().__init__(fact)
        self.fact = fact
        self.hint = hint
        self.number = number


def check_apart(*kept: Path, **environment: str) -> int:
    """Return the exit code of `ckptfs status --check` where these are the only mounts, and nothing is watched.

    As in a container: in namespaces of its own, for other tests may mount and watch all the time.
    """
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*apart, sys.executable, "-c", _CHECK_APART, *map(str, kept)]
    env = os.environ | environment
    return subprocess.run(command, timeout=60, check=False, env=env, capture_output=True).returncode


class Speaking:
    """What a mount and a watch say in the same way."""

    root: Path
    cache_dir: Path

    @property
    def cache(self) -> Path:
        """The store's directory in the cache directory."""
        (found,) = (path for path in self.cache_dir.iterdir() if (path / "pending").is_dir())
        return found

    @property
    def log(self) -> str:
        """The log of all mounts and watches of this cache directory."""
        return (self.cache / "mount.log").read_text()

    def status(self) -> dict[str, Any]:
        """What `.status` says."""
        return dict(json.loads((self.root / ".status").read_bytes()))


class Mount(Speaking):
    """One mount.

    Args:
        store: Its URL.
        mountpoint: Made if it is missing.
        cache_dir: As given to --cache-dir.
        deadline_s: When its process is killed.
        env: Environment besides the present one.
        key: Of an encrypted store.
        through: A program and its arguments that the mount's is started with.
        options: Of MountOptions; prefetch is off unless it is given, so that a test sees what is fetched when.
    """

    def __init__(
        self,
        store: str,
        mountpoint: Path,
        cache_dir: Path,
        *,
        deadline_s: float = 100.0,
        env: Mapping[str, str] | None = None,
        key: bytes = b"",
        through: Sequence[str] = (),
        **options: Any,
    ) -> None:
        mountpoint.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.mkdir(mountpoint)
        except FileExistsError:
            pass  # perhaps with a dead mount on it, which is not to be looked into
        self.root = mountpoint
        self.store = store
        self.cache_dir = cache_dir
        self._options = {"prefetch": False, "transport": TRANSPORT, **options}
        self._env = dict(env or {})
        self._key = key
        self._through = list(through)
        self._deadline_s = deadline_s
        self._watchdog: threading.Timer | None = None
        self.process: subprocess.Popen[bytes] | None = None

    # life

    def start(self) -> "Mount":
        """Mount; return when it is ready. Raises MountFailedError."""
        values = {"store": self.store, "mountpoint": str(self.root), "cache_dir": str(self.cache_dir), **self._options}
        defaults = MountOptions(store=self.store, mountpoint=self.root, cache_dir=self.cache_dir)
        whole = {field.name: values.get(field.name, getattr(defaults, field.name)) for field in fields(MountOptions)}
        self.process = subprocess.Popen(
            [*self._through, sys.executable, "-m", "ckptfs.fs.launch", json.dumps(whole)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | self._env,
            start_new_session=True,
            pass_fds=() if whole["fuse_fd"] is None else (whole["fuse_fd"],),
        )
        self.live_on()
        assert self.process.stdin is not None
        self.process.stdin.write(self._key)
        self.process.stdin.close()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            line = json.dumps({"error": self.process.stderr.read().decode(), "hint": None, "errno": 0}).encode()
        answer = json.loads(line)
        if "error" in answer:
            self._reap()
            raise MountFailedError(answer["error"], answer["hint"], answer["errno"])
        return self

    def live_on(self) -> None:
        """Let the deadline count from now."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = threading.Timer(self._deadline_s, self._kill_all)
        self._watchdog.daemon = True
        self._watchdog.start()

    @property
    def keeper_pid(self) -> int:
        """Of the process that was started; it forks the mount process."""
        assert self.process is not None
        return self.process.pid

    @property
    def pid(self) -> int:
        """Of the mount process."""
        pid = self.server_pid()
        assert pid is not None
        return pid

    @property
    def is_alive(self) -> bool:
        """True while the mount is kept up."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of the keeper and the mount process. The dead mount stays where it is, for the next to clear away."""
        self._kill_all()
        self._reap()

    def kill_server(self) -> None:
        """kill -9 of the mount process alone: another takes over."""
        os.kill(self.pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        """End the keeper first, and stopped before that: it starts nothing any more."""
        assert self.process is not None
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGSTOP)
        server = self.server_pid()
        self.process.kill()
        if server is not None:
            os.kill(server, signal.SIGKILL)
            wait_until(lambda: _state(server) in (b"", b"Z"), 30.0, f"process {server} has ended")

    def server_pid(self) -> int | None:
        """The mount process, be it ready or not; None if there is none now."""
        return next((pid for pid in children(self.keeper_pid) if _state(pid) != b"Z"), None)

    def kill_upload_process(self) -> bool:
        """kill -9 of the upload process; False if there is none now."""
        pid = self.upload_pid()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def upload_pid(self) -> int | None:
        """The upload process: a child of the mount process."""
        server = self.server_pid()
        if server is None:
            return None
        for pid in children(server):
            if b"ckptfs.transfer.process" in command_line(pid):
                return pid
        return None

    def unmount(self) -> int:
        """umount(8), then wait for the process to end; return its exit code."""
        assert self.process is not None
        subprocess.run(["umount", str(self.root)], check=True, timeout=30)
        return self.wait()

    def terminate(self) -> int:
        """SIGTERM, then wait for the process to end; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def wait(self, timeout_s: float = _END_TIMEOUT_S) -> int:
        """Wait for the process to end; return its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self._reap()
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process is not None:
            self._kill_all()
        self._reap()
        clear_away(self.root)

    def _reap(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self.process is not None:
            self.process.wait(_END_TIMEOUT_S)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    # what it says

    def marker(self) -> dict[str, Any]:
        """What reading `.save` says."""
        return dict(json.loads((self.root / ".save").read_bytes()))

    # saving

    def save(self, note: str = "") -> int:
        """Touch the marker; return the version's number. Raises OSError."""
        touch(self.root, note)
        return int(self.marker()["version"])

    def sync(self) -> None:
        """fsync of the marker. Raises OSError."""
        fd = os.open(self.root / ".save", os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            error.add_note(f"{json.dumps(self.status())}\n{self.log[-3000:]}")
            raise
        finally:
            os.close(fd)

    def restore(self, spec: str | int) -> None:
        """Write to `.restore`. Raises OSError."""
        fd = os.open(self.root / ".restore", os.O_WRONLY)
        try:
            os.write(fd, f"{spec}\n".encode())
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


class Mounts:
    """Makes mounts below one directory, and ends them all.

    Args:
        deadline_s: Of each.
        options: For each that does not say otherwise, of Mount and MountOptions.
    """

    def __init__(self, directory: Path, deadline_s: float, **options: Any) -> None:
        self.directory = directory
        self._options = {"deadline_s": deadline_s, **options}
        self._made: list[Mount] = []

    @property
    def file_store(self) -> str:
        """The URL of a store in a directory here."""
        return f"file://{self.directory}/store"

    def prepare(self, store: str | None = None, *, name: str = "mnt", cache: str = "cache", **options: Any) -> Mount:
        """Return a mount that has not been started.

        Args:
            name: Of the mount point, below the directory.
            cache: Of the cache directory.
            options: Of Mount and MountOptions.
        """
        options = {**self._options, **options}
        mount = Mount(store or self.file_store, self.directory / name, self.directory / cache, **options)
        self._made.append(mount)
        return mount

    def __call__(self, store: str | None = None, **options: Any) -> Mount:
        """Mount; arguments as for prepare."""
        return self.prepare(store, **options).start()

    def close(self) -> None:
        """End all mounts."""
        for mount in self._made:
            mount.close()


def touch(root: Path, note: str = "") -> None:
    """Open the marker, write a note, close. Raises OSError if nothing was captured."""
    fd = os.open(root / ".save", os.O_WRONLY)
    try:
        if note:
            os.write(fd, note.encode())
    except OSError:
        os.close(fd)
        raise
    os.close(fd)


def wait_until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until something is so; fail when it is not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"after {timeout_s} s still not so: {what}"
        time.sleep(0.02)


def let_others_in(directory: Path) -> None:
    """Let other users get to a temporary directory; pytest keeps them out of its own."""
    for above in (directory, *directory.parents):
        if above in (Path("/"), Path(tempfile.gettempdir())):
            return
        above.chmod(above.stat().st_mode | 0o111)


def clear_away(mountpoint: Path) -> None:
    """Take away every mount of ours at a path."""
    for mount in mounts():
        if mount.mountpoint == mountpoint:
            subprocess.run(["umount", "-l", str(mountpoint)], check=False, timeout=30)


def children(parent: int) -> list[int]:
    """Return a process's children, oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        # 4121 (name) S PPID ...
        words = _read(path / "stat").rpartition(b") ")[2].split()
        if len(words) > 1 and int(words[1]) == parent:
            found.append(int(path.name))
    return sorted(found)


def command_line(pid: int) -> bytes:
    """Return the words of a process, each ended by NUL; nothing if there is none."""
    return _read(Path(f"/proc/{pid}/cmdline"))


def _state(pid: int) -> bytes:
    """Return a process's state as /proc has it, nothing if there is none."""
    return b"".join(_read(Path(f"/proc/{pid}/stat")).rpartition(b") ")[2].split()[:1])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
