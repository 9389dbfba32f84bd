"""What a mount can be told, with the defaults; the command line fills it in, lower layers get single values of it."""

import os
from dataclasses import dataclass
from pathlib import Path

from ckptfs.cache.directory import high_water_directory
from ckptfs.cache.high_water import HighWater
from ckptfs.crypto.secret import KeySource
from ckptfs.store.server_encryption import ServerEncryption
from ckptfs.versions.opening import Access


def default_cache_directory() -> Path:
    """Return /var/cache/ckptfs for root, else the user's own cache directory."""
    if os.geteuid() == 0:
        return Path("/var/cache/ckptfs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckptfs"


def access_of(options: "MountOptions", key: KeySource | None, *, goes_on: bool) -> Access:
    """Return what opens the store of a mount.

    Args:
        goes_on: The mount is there already, so that what it was to accept has been accepted.
    """
    forgets = options.accept_rollback and not goes_on
    high_water = HighWater(high_water_directory(options.cache_dir), forgets=forgets)
    return Access(key=key, encrypts=options.encrypt, high_water=high_water)


def server_encryption(options: "MountOptions") -> ServerEncryption | None:
    """Return how S3 is to encrypt what a mount writes."""
    return ServerEncryption(options.sse, options.sse_kms_key_id) if options.sse is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """One mount."""

    store: str
    mountpoint: Path
    cache_dir: Path
    read_only: bool = False
    version: str | None = None
    """Read-only: a version number or tag instead of the newest."""
    follow: bool = False
    """Read-only: move on to each new version, or to where the tag moves."""
    trust_cache_dir: bool = False
    """Nobody else gets to `cache_dir`, whatever the permissions above it say: a volume of this container alone."""
    transport: str = "auto"
    fuse_fd: int | None = None
    """A descriptor of /dev/fuse that somebody else has mounted on `mountpoint`."""
    fuse_socket: Path | None = None
    """Where to ask for such a descriptor (`ckptfs lend`)."""
    allow_other: bool = False
    takeover: bool = False
    save_on_exit: bool = False
    drain_timeout_s: float = 300.0
    sync_timeout_s: float = 60.0
    """How long fsync on the marker waits before it says EIO."""
    upload_limit_bps: int = 0
    """The most bytes a second that uploads send; 0: no limit."""
    confine_upload: bool = False
    """The upload process may change files below the cache directory and the store only, and has few capabilities."""
    upload_nice: int = 10
    """Niceness of the processes that compress and upload, 0 to 19: training's own go first."""
    max_pending_bytes: int | None = None
    """None: half of what the cache filesystem had free when mounting."""
    cache_size_bytes: int = 64 << 30
    """How much is kept on local disk of what the store has as well: live files that did not change since a durable
    version, files of old versions, and what the next version can be encoded against; of the last never more than there
    is free disk."""
    keep_last: int | None = None
    keep_daily: int | None = None
    keep_every: int | None = None
    """Which versions are kept (versions/retention.py); without any of the three, all."""
    lease_s: float = 30.0
    unsafe_single_writer: bool = False
    encrypt: bool = False
    """The store is encrypted, or is made so. The key is no option, which others may read."""
    key_file: Path | None = None
    key_command: str | None = None
    """Where it is, if the process that serves the mount is to look for it by itself (fs/keys.py)."""
    accept_rollback: bool = False
    """Take the store as it is, although it was seen in a newer state."""
    sse: str | None = None
    sse_kms_key_id: str | None = None
    """How S3 is to encrypt what is written (store/open.py)."""
    prefetch: bool = True
    """Fetch files that nobody has opened yet, in the background."""
    verbose: bool = False

    @property
    def is_lent(self) -> bool:
        """True if somebody else mounts."""
        return self.fuse_fd is not None or self.fuse_socket is not None

    @property
    def moves_on(self) -> bool:
        """True if what a read-only mount shows may become another version: a number names the same one for ever."""
        return self.follow and not (self.version or "").isdecimal()

    @property
    def keeps_some(self) -> bool:
        """True if versions are dropped."""
        return any(rule is not None for rule in (self.keep_last, self.keep_daily, self.keep_every))


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions(MountOptions):
    """One watch; its mount point is an ordinary directory."""

    adopt: bool = False
    """What the directory holds is left there, and is in the next version, if the last watch with this cache directory
    watched it and nobody wrote to the store since."""
