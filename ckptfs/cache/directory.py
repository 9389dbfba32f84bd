"""The cache directory of one store on one machine: where everything local lives, and who may use it.

    live/               the live tree: real files, shown by the mount
    journal             what changed in the live tree since the last capture (capture/journal.py)
    watch-journal       which version a watched directory was made or saved as (fs/watch/)
    session.json        the writer's identity for the upload process; its epoch decides whose pending versions may go on
    pending/            captured versions that are not durable yet (cache/pending.py)
    aside/              captured versions that can never enter history
    unsaved/<time>/     what a crash or a restore left unsaved
    orphans/            files that are open but have no name any more
    spares/             files and directories that are made before they are needed (cache/spares.py)
    objects/            immutable objects of the store, kept (store/caching.py)
    contents/           files of old versions that were read
    contents-boot       the boot of the machine that they are of (fs/hydration/contents.py)
    read-order          the order in which files were first read (fs/hydration/read_order.py)
    anchors/            what the next version can be encoded against (cache/anchors.py)
    ../seen/<store id>  the newest commit that was seen of a store, whatever its address (cache/high_water.py)
    mount.log           what the processes of mounts say, and the three files before it (log_file.py)
    lock, upload.lock   flock of the mount process and of the upload process

Invariant: whoever changes live/, journal or session.json holds `lock`; it is never deleted, so its inode identifies it.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

from ckptfs.cache.durable import sync_path
from ckptfs.errors import CacheError
from ckptfs.hashing import hash_bytes
from ckptfs.private import exchangeable_part, make_private, write_private

_SUBDIRECTORIES = ("pending", "aside", "unsaved", "orphans", "spares", "objects", "contents", "anchors")


def boot_id() -> str:
    """Return the running kernel's boot id: the identity of this machine until it restarts."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def store_directory_name(url: str) -> str:
    """Return the name of a store's directory inside a cache directory: readable, and unique by hash."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url.split("://", 1)[-1]).strip("-.")[-40:]
    return f"{readable or 'store'}-{hash_bytes(url.encode()).hex()[:12]}"


def empty_directory(directory: Path) -> None:
    """Remove all that is in a directory. Raises OSError."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def high_water_directory(cache_dir: Path) -> Path:
    """Return where a cache directory keeps what was seen of stores (cache/high_water.py)."""
    return cache_dir / "seen"


class CacheInUseError(CacheError):
    """Another process has the cache directory: a mount of the same store, or one that is ending.

    Args:
        pid: Its process id, empty if it has not said it yet.
    """

    def __init__(self, root: Path, pid: str) -> None:
        super().__init__(
            f"the cache directory {root} is in use by pid {pid or '?'}",
            hint="unmount that mount first, or choose another directory with --cache-dir",
        )
        self.pid = pid


class CacheDirectory:
    """Paths and lock of one store's local state.

    Args:
        root: The directory of this store, inside the user's cache directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live = root / "live"
        self.journal = root / "journal"
        self.watch_journal = root / "watch-journal"
        self.session = root / "session.json"
        self.pending = root / "pending"
        self.aside = root / "aside"
        self.unsaved = root / "unsaved"
        self.orphans = root / "orphans"
        self.spares = root / "spares"
        self.objects = root / "objects"
        self.contents = root / "contents"
        self.contents_boot = root / "contents-boot"
        self.anchors = root / "anchors"
        self.read_order = root / "read-order"
        self.lock_path = root / "lock"
        self.upload_lock_path = root / "upload.lock"
        self.log = root / "mount.log"
        self.high_water = high_water_directory(root.parent)
        self._lock_fd = -1

    def prepare(self, *, trusted: bool = False) -> None:
        """Create what is missing, and make sure that it is this user's alone.

        Args:
            trusted: Nobody else gets to the directory, whatever the permissions above it say.

        Raises:
            CacheError: It cannot be used.
        """
        try:
            for parent in reversed(self.root.parents):
                # with its mode: a mount has no umask, and nobody else is to have a say above the live tree
                parent.mkdir(exist_ok=True, mode=0o755)
            # the live tree holds files of all users of the mount under the daemon's account
            make_private(self.root)
            for name in _SUBDIRECTORIES:
                make_private(self.root / name)
            # its owner and mode are those of the mount's root
            self.live.mkdir(exist_ok=True, mode=0o700)
            exchangeable = None if trusted else exchangeable_part(self.root)
        except OSError as error:
            raise CacheError(
                f"cannot use {self.root} as the cache directory: {error.strerror}",
                hint="choose another with --cache-dir",
            ) from error
        if exchangeable is not None:
            raise CacheError(
                f"cannot use {self.root} as the cache directory: any user may put another {exchangeable} in its place",
                hint="choose another with --cache-dir, or take the right to write there from others",
            )

    def lock(self) -> None:
        """Take the directory for this process until it ends. Raises CacheInUseError."""
        try:
            fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CacheError(
                f"cannot open {self.lock_path}: {error.strerror}", hint="choose another with --cache-dir"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            raise CacheInUseError(self.root, pid) from error
        write_pid(fd)
        self._lock_fd = fd

    @property
    def lock_fd(self) -> int:
        """The descriptor that holds the lock; whoever has a duplicate of it holds it too."""
        return self._lock_fd

    def go_on_locked(self, lock_fd: int) -> None:
        """Take over the lock of a process that was killed and may still be ending."""
        self._lock_fd = os.dup(lock_fd)
        write_pid(self._lock_fd)

    def unlock(self) -> None:
        """Give the directory up."""
        if self._lock_fd >= 0:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def is_in_use(self) -> bool:
        """True while a read-write mount, in whatever process, has the directory."""
        try:
            fd = os.open(self.lock_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @property
    def lock_id(self) -> str:
        """`<st_dev>:<st_ino>` of the lock file (FORMAT.md 6)."""
        status = os.stat(self.lock_path)
        return f"{status.st_dev}:{status.st_ino}"

    def stop_upload_process(self) -> None:
        """End an upload process that outlived its mount process; being crash-only, it loses nothing."""
        try:
            fd = os.open(self.upload_lock_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            # 5 s: a killed process gives its lock up as soon as it leaves a system call
            for _ in range(500):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    _kill_if_ours(os.pread(fd, 32, 0).decode(errors="replace").strip(), self.root)
                    time.sleep(0.01)
            raise CacheError(f"an upload process still holds {self.upload_lock_path}")
        finally:
            os.close(fd)

    def read_session(self) -> dict[str, Any]:
        """Return the last session's identity, or {} if there is none that can be read."""
        try:
            session = json.loads(self.session.read_bytes())
        except (OSError, ValueError):
            return {}
        return session if isinstance(session, dict) else {}

    def write_session(self, session: dict[str, Any], *, durably: bool = False) -> None:
        """Replace the session's identity atomically.

        Args:
            durably: It outlives a restart of the machine from here on.
        """
        temporary = self.session.with_suffix(".tmp")
        write_private(temporary, json.dumps(session).encode())
        if durably:
            sync_path(temporary)
        temporary.rename(self.session)
        if durably:
            sync_path(self.root)

    def read_lost(self) -> dict[str, str]:
        """Return the last session's versions that can never enter history: commit ids, and why."""
        lost = self.read_session().get("lost")
        return lost if isinstance(lost, dict) else {}

    def write_lost(self, lost: dict[str, str]) -> None:
        """Say so of the present session's, for who looks here when it is over. Raises OSError."""
        self.write_session({**self.read_session(), "lost": lost})


def write_pid(lock_fd: int) -> None:
    """Write this process's pid into a lock file that it holds."""
    try:
        # in place and of one length: that needs no room on a disk that is full of versions to be uploaded
        os.pwrite(lock_fd, f"{os.getpid():<19}\n".encode(), 0)
    except OSError:
        return  # the first time, on a full disk; nobody can be told who we are then


def lock_is_free(lock: str, lock_id: str) -> bool:
    """Tell whether a lock file of this machine is the one named and nobody holds it (FORMAT.md 6)."""
    try:
        # a lease says which: anybody's who can write to the store. O_PATH does nothing to what is there, be it a device
        place = os.open(lock, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return False
    try:
        status = os.fstat(place)
        if f"{status.st_dev}:{status.st_ino}" != lock_id or not stat.S_ISREG(status.st_mode):
            return False
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    finally:
        os.close(place)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _kill_if_ours(pid: str, root: Path) -> None:
    """Kill a process if its command line names this cache directory: a pid alone may have been reused."""
    try:
        command = Path(f"/proc/{int(pid)}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if os.fsencode(root) in command:
        os.kill(int(pid), signal.SIGKILL)
