"""`ckptfs mount`: shows a store as a directory."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptfs.cli.access import given_key, key_options, server_encryption
from ckptfs.cli.parameters import PATH, Command, Invocation, duration, lease, setting, size, store_address, version
from ckptfs.mount_table import real_mountpoint

if TYPE_CHECKING:
    from ckptfs.fs.options import MountOptions


@click.command("mount", cls=Command)
@click.argument("store", type=store_address, metavar="STORE")
@click.argument("mountpoint", type=PATH)
@click.option("--foreground", is_flag=True, help="Stay until it is unmounted.")
@setting("--read-only", is_flag=True, help="Show the newest version; refuse changes.")
@setting(
    "--follow",
    is_flag=True,
    help="With --read-only: move on to each new version; with --version: to where the tag moves.",
)
@click.option("--version", type=version, metavar="V", help="Show this version instead (a number or a tag), read-only.")
@setting(
    "--cache-dir", type=PATH, help="Local data of all stores.  [default: /var/cache/ckptfs, of a user ~/.cache/ckptfs]"
)
@setting(
    "--cache-size",
    type=size,
    metavar="SIZE",
    help="Most that it keeps of what the store has, too.  [default: 64G]",
)
@setting("--trust-cache-dir", is_flag=True, help="Do not ask whether other users could exchange --cache-dir.")
@setting(
    "--transport",
    type=click.Choice(["auto", "passthrough", "mediated", "fusepy"]),
    help="How requests come from the kernel.",
)
@click.option(
    "--fuse-fd",
    type=click.IntRange(3),
    metavar="N",
    help="Serve this inherited descriptor of /dev/fuse, which is mounted on MOUNTPOINT already.",
)
@setting(
    "--fuse-socket", type=PATH, metavar="PATH", help="Have `ckptfs lend` mount there; this process needs no privileges."
)
@setting("--allow-other", is_flag=True, help="Let other users in, as the permissions of the files allow.")
@setting(
    "--takeover", is_flag=True, help="Do not wait for a dead writer's lease, and end a live one's writing for good."
)
@setting("--save-on-exit", is_flag=True, help="Save once more when unmounting, if anything changed.")
@setting("--drain-timeout", type=duration, metavar="T", help="How long unmounting waits for uploads.  [default: 5m]")
@setting(
    "--sync-timeout",
    type=duration,
    metavar="T",
    help="How long fsync of .save waits for them while nothing more comes into the store.  [default: 1m]",
)
@setting(
    "--max-pending-bytes",
    type=size,
    metavar="SIZE",
    help="Captured data that may wait for upload.  [default: half the free disk]",
)
@setting("--upload-limit", type=size, metavar="SIZE", help="Bytes a second to send at most.  [default: 0, no limit]")
@setting(
    "--upload-nice",
    type=click.IntRange(0, 19),
    metavar="N",
    help="Niceness of compressing and uploading, against all other programs.  [default: 10]",
)
@setting(
    "--keep-last",
    type=click.IntRange(min=1),
    metavar="N",
    help="After each save, drop versions but the newest N and those of the other --keep options and with a tag.",
)
@setting(
    "--keep-daily",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the newest version of each of the last N days (UTC) that have one.",
)
@setting("--keep-every", type=click.IntRange(min=1), metavar="N", help="Keep versions whose number N divides.")
@setting(
    "--confine-upload",
    is_flag=True,
    help="Let the uploading process write below cache directory and store only, with few capabilities.",
)
@setting(
    "--lease",
    type=lease,
    metavar="T",
    help="How long a writer may be silent before it counts as dead.  [default: 30s]",
)
@setting("--no-prefetch", is_flag=True, help="Fetch no file before it is opened.")
@setting("--unsafe-single-writer", is_flag=True, help="Write to a store that ignores If-None-Match.")
@setting("--encrypt", is_flag=True, help="Make the store an encrypted one, if it is new; take no other.")
@key_options
def command(store: str, mountpoint: Path, foreground: bool, **settings: Any) -> None:
    """Mount STORE at the directory MOUNTPOINT; return when it is ready.

    A store that does not exist yet is made. Programs see plain files; touching .save captures them all as one version.
    """
    if settings["follow"] and not (settings["read_only"] or settings["version"]):
        raise click.UsageError("--follow goes with --read-only or --version")
    if settings["fuse_fd"] is not None and settings["fuse_socket"] is not None:
        raise click.UsageError("--fuse-fd and --fuse-socket exclude each other")
    key = given_key(settings.pop("key_file"), settings.pop("key_command"))
    server_encryption(settings["sse"], settings["sse_kms_key_id"])
    verbose = click.get_current_context().ensure_object(Invocation).verbose
    options = mount_options(store, mountpoint, settings, verbose=verbose)
    if not foreground:
        from ckptfs.fs.launch import start

        start(options, key)
        return
    from ckptfs.fs.launch import configure_logging, keep

    configure_logging(options.verbose)
    sys.exit(keep(options, tell_ready, key=key))


def tell_ready() -> None:
    """Tell a service manager that waits for it (Type=notify) that the mount is there."""
    from ckptfs.service_manager import notify

    notify("READY=1")


def mount_options(store: str, mountpoint: Path, settings: dict[str, Any], *, verbose: bool) -> "MountOptions":
    """Return the options of a mount, with the defaults where the user said nothing."""
    from ckptfs.fs.options import MountOptions, default_cache_directory

    settings["prefetch"] = not settings.pop("no_prefetch")
    given = {_FIELDS.get(name, name): value for name, value in settings.items() if value is not None}
    given["cache_dir"] = Path(given.get("cache_dir", default_cache_directory())).absolute()
    # what a lender mounts is named as the lender has it
    is_elsewhere = settings.get("fuse_socket") is not None
    place = mountpoint.absolute() if is_elsewhere else real_mountpoint(mountpoint)
    return MountOptions(store=store, mountpoint=place, verbose=verbose, **given)


_FIELDS = {
    "drain_timeout": "drain_timeout_s",
    "sync_timeout": "sync_timeout_s",
    "lease": "lease_s",
    "cache_size": "cache_size_bytes",
    "upload_limit": "upload_limit_bps",
}
"""Options whose unit a person writes, to fields that have it in their name."""
