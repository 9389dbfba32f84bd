"""Opening what a user means by STORE: an address, or a mount point or a watched directory that shows one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckptfs.errors import InvalidInputError
from ckptfs.mount_table import mount_at
from ckptfs.watch_table import watch_at

if TYPE_CHECKING:
    from ckptfs.cli.access import StoreAccess
    from ckptfs.versions.history import History


def store_url(argument: str) -> str:
    """Return the address of the store meant.

    Raises:
        InvalidInputError: It is no address, and no mount or watch is there.
    """
    if "://" in argument:
        return argument
    mount = mount_at(Path(argument)) or watch_at(Path(argument))
    if mount is None:
        here = Path(argument).absolute().as_uri()
        raise InvalidInputError(
            f"{argument} is neither a store's address nor a ckptfs mount",
            hint=f"a store is s3://BUCKET/PREFIX or file:///DIRECTORY; a directory here is {here}",
        )
    return mount.store


@contextmanager
def opened_history(argument: str, access: "StoreAccess") -> "Iterator[History]":
    """Open the store that an argument means, and its history."""
    from ckptfs.versions.history import open_history

    store = access.open(store_url(argument))
    try:
        yield open_history(store, access.access())
    finally:
        store.close()
