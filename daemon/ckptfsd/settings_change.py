"""What a change of a mount's settings takes: nothing, another server under open files, or another mount."""

from dataclasses import fields

from ckptfs.fs.options import MountOptions
from ckptfsd.configuration import MountSettings

_OF_THE_MOUNT = ("store", "mountpoint", "cache_dir", "read_only", "version", "transport", "allow_other")
"""What the kernel or the live tree knows of: a change of these needs another mount. All else is the server's own."""


def is_same_mount(one: MountSettings, other: MountSettings) -> bool:
    """True if nothing has to be done for one to become the other."""
    return one.environment == other.environment and not _changed_options(one.options, other.options)


def is_same_to_the_kernel(one: MountOptions, other: MountOptions) -> bool:
    """True if a server of one can take over from a server of the other."""
    return not set(_OF_THE_MOUNT) & set(_changed_options(one, other))


def _changed_options(one: MountOptions, other: MountOptions) -> list[str]:
    return [each.name for each in fields(MountOptions) if getattr(one, each.name) != getattr(other, each.name)]


def changed(one: MountSettings, other: MountSettings) -> list[str]:
    """Return the names of the settings that differ."""
    return _changed_options(one.options, other.options) + ["environment"] * (one.environment != other.environment)
