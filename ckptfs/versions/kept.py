"""Reading history through what local disk keeps of a store."""

import logging
from pathlib import Path

from ckptfs.errors import CorruptObjectError, UnsupportedFormatError
from ckptfs.format.commit_bytes import decode_commit
from ckptfs.format.keys import COMMIT_PREFIX, commit_seq
from ckptfs.store.caching import CachingStore
from ckptfs.versions.history import History

log = logging.getLogger(__name__)


def through_kept(history: History, directory: Path, *, check: bool) -> tuple[CachingStore, History]:
    """Return a store that keeps commit records and segments on local disk, and a history that is read through it.

    Args:
        directory: Made if it is missing.
        check: First drop what is kept of a history that the store has no more: it was put back to an older state, and
            records of the same numbers may have been committed since. One GET, none where no record is kept.

    Raises:
        StoreError: The store cannot be asked.
        OSError: The directory cannot be made or read.
    """
    directory.mkdir(exist_ok=True, mode=0o700)
    kept = CachingStore(history.store, directory)
    if check:
        _drop_disowned(history, kept)
    return kept, history.through(lambda _: kept)


def _drop_disowned(history: History, kept: CachingStore) -> None:
    """Drop all kept commit records unless the store has the newest of them: each is built on those before it."""
    keys = kept.kept_keys(COMMIT_PREFIX)
    for key in keys:
        seq = commit_seq(key)
        try:
            record, _ = decode_commit(kept.get(key), seq=seq)
        except (CorruptObjectError, UnsupportedFormatError):
            kept.forget(key)
            continue
        try:
            is_there = history.still_has(record)
        except (CorruptObjectError, UnsupportedFormatError):
            return  # damaged there, and whole here
        if not is_there:
            log.info("dropped kept records that the store has no more count=%d newest_seq=%d", len(keys), seq)
            for each in keys:
                kept.forget(each)
        return
