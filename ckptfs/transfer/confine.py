"""Confining a process that talks to the network to what it needs: few capabilities, and few places to write to.

Of the capabilities stay those that files of other users take. Landlock, a security module of Linux, refuses changes of
files elsewhere than below the places that are named; reading and running programs is not restricted, for certificates,
credentials and the programs that fetch these are anywhere. Both hold for all that the process starts, for good.

Sources: capabilities(7), landlock(7), prctl(2).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from ckptfs.errors import CkptfsError

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")
KEPT_CAPABILITIES = 0b11111
"""chown, dac_override, dac_read_search, fowner, fsetid: captured files of other users, stores in directories."""

# the numbers are the same on every architecture
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
# remove_dir, remove_file, make_char, make_dir, make_reg, make_sock, make_fifo, make_block, make_sym, refer
_CHANGE_DIRECTORY = sum(1 << number for number in range(4, 14))
# with the second version, renaming from one directory to another can be allowed; the third knows truncate(2)
_FIRST_VERSION, _VERSION_OF_TRUNCATE = 2, 3

_libc = ctypes.CDLL(None, use_errno=True)


def require_confinement() -> int:
    """Return the version of the kernel's Landlock. Raises CkptfsError: It has none that will do."""
    version = int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    if version < _FIRST_VERSION:
        why = os.strerror(ctypes.get_errno()) if version < 0 else f"it has version {version}"
        raise CkptfsError(
            f"uploads cannot be confined: the kernel lacks Landlock ({why})",
            hint="it takes Linux 5.19 with landlock among its security modules; or mount without --confine-upload",
        )
    return version


def confine(places: Iterable[Path]) -> None:
    """Give up, in the calling thread and all that it starts, what the module says.

    Args:
        places: Directories below which files may be changed; those that do not exist are left out.

    Raises:
        CkptfsError: The kernel cannot.
    """
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _restrict_changes(places)
    # last: a capability may be needed to look at the places
    _drop_capabilities()


def _drop_capabilities() -> None:
    for number in range(int(_LAST_CAPABILITY.read_text()) + 1):
        if not KEPT_CAPABILITIES >> number & 1 and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # without CAP_SETPCAP there is little to drop, and nothing to gain by starting another program
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, held), "capget")
    # effective, permitted and inheritable, of capabilities 0 to 31 and then of the others
    effective, permitted, inheritable = struct.unpack_from("=3I", held)
    kept = (effective & KEPT_CAPABILITIES, permitted & KEPT_CAPABILITIES, inheritable & KEPT_CAPABILITIES)
    _check(_libc.capset(header, struct.pack("=6I", *kept, 0, 0, 0)), "capset")


def _restrict_changes(places: Iterable[Path]) -> None:
    knows_truncate = require_confinement() >= _VERSION_OF_TRUNCATE
    rights = _WRITE_FILE | _CHANGE_DIRECTORY | (_TRUNCATE if knows_truncate else 0)
    rules = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, struct.pack("=Q", rights), 8, 0), "landlock_create_ruleset")
    try:
        for place in places:
            _allow_below(rules, rights, place)
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)


def _allow_below(rules: int, rights: int, place: Path) -> None:
    try:
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("=Qi", rights, fd)
        _check(_libc.syscall(_LANDLOCK_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0), "landlock_add_rule")
    finally:
        os.close(fd)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise CkptfsError(f"uploads cannot be confined: {call}: {errno.errorcode.get(number, number)}")
    return result
