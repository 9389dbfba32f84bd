"""`ckptfs watch`: saves and restores an ordinary directory, where FUSE is not allowed."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ckptfs.cli.access import given_key, server_encryption
from ckptfs.cli.commands.mount import command as mount_command
from ckptfs.cli.commands.mount import mount_options, tell_ready
from ckptfs.cli.parameters import PATH, Command, Invocation, setting, store_address

_HELP = """Save and restore DIRECTORY, an ordinary directory, where FUSE is not allowed; return when it is ready.

It becomes the newest version of STORE; what it holds that is in no version is set aside (`ckptfs recover`). From then
on touching DIRECTORY/.save makes a version, as in a mount.

\b
What it cannot promise, as it sees no write and holds no program back:
- A version is captured after the touch has returned: wait with `ckptfs save`, or until
  DIRECTORY/.save.status answers the touch (docs/WATCH.md).
- Touches that come faster than versions are made share one.
- A version is of one moment only if nobody writes meanwhile. A file that never holds
  still while it is copied is marked torn, and that is said.
- Finding what changed looks at every file; captured files are copied, unless the
  directory and --cache-dir are on one filesystem that can clone (XFS, Btrfs).
- Restoring takes as long as the data take to arrive. There is no .versions/, and the
  names .save, .save.status, .status and .restore are listed.

SIGTERM or `ckptfs umount DIRECTORY` ends it when what was captured is durable.
"""

_SHARED = (
    *(
        "cache_dir",
        "trust_cache_dir",
        "cache_size",
        "takeover",
        "save_on_exit",
        "drain_timeout",
        "sync_timeout",
        "max_pending_bytes",
    ),
    *("upload_limit", "upload_nice", "lease", "unsafe_single_writer", "keep_last", "keep_daily"),
    "keep_every",
    *("encrypt", "key_file", "key_command", "accept_rollback", "sse", "sse_kms_key_id"),
)
"""Options that mean the same as for a mount."""


def _watch(store: str, directory: Path, foreground: bool, adopt: bool, **settings: Any) -> None:
    from ckptfs.fs.launch import check, configure_logging, start
    from ckptfs.fs.options import WatchOptions

    verbose = click.get_current_context().ensure_object(Invocation).verbose
    key = given_key(settings.pop("key_file"), settings.pop("key_command"))
    server_encryption(settings["sse"], settings["sse_kms_key_id"])
    # a service would look for it in its own working directory otherwise
    place = directory.resolve()
    common = mount_options(store, place, settings | {"no_prefetch": True}, verbose=verbose)
    options = WatchOptions(**{field.name: getattr(common, field.name) for field in fields(common)}, adopt=adopt)
    check(options)
    if not foreground:
        start(options, key)
        return
    from ckptfs.fs.watch.service import keep_watching

    configure_logging(options.verbose)
    sys.exit(keep_watching(options, tell_ready, key=key))


command = Command(
    "watch",
    callback=_watch,
    help=_HELP,
    params=[
        click.Argument(["store"], type=store_address, metavar="STORE"),
        click.Argument(["directory"], type=PATH),
        click.Option(["--foreground"], is_flag=True, help="Stay until it is ended."),
        *(param for param in mount_command.params if param.name in _SHARED),
    ],
)
command = setting(
    "--adopt",
    is_flag=True,
    help="Leave what DIRECTORY holds there if it was watched last, and nobody else wrote to STORE since.",
)(command)
