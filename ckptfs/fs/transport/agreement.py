"""INIT: what the kernel and the server agree on before anything else."""

import errno

from ckptfs.fs.transport import wire
from ckptfs.fs.transport.device import MAX_WRITE_BYTES
from ckptfs.fs.transport.wire import InitFlag, Reply, Request

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    # The kernel decides by access control lists, and remembers all but the root's, an inode that it has had from before
    # INIT: who does not own that waits 30 us for each absolute path
    | InitFlag.POSIX_ACL
    # a default list takes the umask's place (Requests.new_mode)
    | InitFlag.DONT_MASK
    # lets the kernel remember that a file has no capabilities, instead of asking before every write
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
    | InitFlag.PASSTHROUGH
    | InitFlag.HAS_RESEND
)


def agree(request: Request, *, passes: bool, stack_depth: int) -> tuple[InitFlag, Reply]:
    """Return what is agreed on, and the reply that says so.

    Args:
        passes: The kernel may be given files.
        stack_depth: 1; 2 if the live tree is on overlayfs.

    Raises:
        OSError: EPROTO, if the kernel has not got what we cannot do without.
    """
    major, minor, max_readahead, flags = wire.INIT_IN.unpack_from(request.body)
    if major != wire.MAJOR or minor < wire.OLDEST_MINOR:
        raise OSError(errno.EPROTO, f"the kernel speaks FUSE {major}.{minor}")
    if flags & InitFlag.INIT_EXT:
        flags |= int.from_bytes(request.body[wire.INIT_IN.size : wire.INIT_IN.size + 4], "little") << 32
    agreed = (_WANTED if passes else _WANTED & ~InitFlag.PASSTHROUGH) & flags
    if passes and not agreed & InitFlag.PASSTHROUGH:
        raise OSError(errno.EPROTO, "the kernel has no FUSE passthrough")
    reply = wire.INIT_OUT.pack(
        wire.MAJOR,
        min(minor, wire.MINOR),
        max_readahead,
        agreed & 0xFFFFFFFF,
        64,
        48,
        MAX_WRITE_BYTES,
        1,
        MAX_WRITE_BYTES // 4096,
        0,
        agreed >> 32,
        stack_depth if passes else 0,
        0,
    )
    return agreed, (reply,)
