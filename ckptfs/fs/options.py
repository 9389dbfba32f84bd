"""What a mount can be told, with the defaults; the command line fills it in, lower layers get single values of it."""

import os
from dataclasses import dataclass
from pathlib import Path


def default_cache_directory() -> Path:
    """Return /var/cache/ckptfs for root, else the user's own cache directory."""
    if os.geteuid() == 0:
        return Path("/var/cache/ckptfs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckptfs"


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
    """Read-only: move on to each new version."""
    transport: str = "auto"
    allow_other: bool = False
    takeover: bool = False
    save_on_exit: bool = False
    drain_timeout_s: float = 300.0
    sync_timeout_s: float = 60.0
    """How long fsync on the marker waits before it says EIO."""
    upload_limit_bps: int = 0
    """The most bytes a second that uploads send; 0: no limit."""
    upload_nice: int = 10
    """Niceness of the processes that compress and upload, 0 to 19: training's own go first."""
    max_pending_bytes: int | None = None
    """None: half of what the cache filesystem had free when mounting."""
    cache_size_bytes: int = 64 << 30
    """How much is kept on local disk of what the store has as well: live files that did not change since a durable
    version, files of old versions, and what the next version can be encoded against; of the last never more than there
    is free disk."""
    lease_s: float = 30.0
    unsafe_single_writer: bool = False
    prefetch: bool = True
    """Fetch files that nobody has opened yet, in the background."""
    verbose: bool = False
