"""Why a chunk cannot be had: its version was pruned while somebody read it, or the store is damaged."""

import threading

from ckptfs.errors import CkptfsError, CorruptObjectError, PrunedError
from ckptfs.format.manifest import Chunk
from ckptfs.versions.condemned import Condemned
from ckptfs.versions.history import History


class Missing:
    """Tells the two apart, for one store; may be used by several threads."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._condemned = Condemned(history)
        self._lock = threading.Lock()

    def explain(self, chunk: Chunk, error: CorruptObjectError) -> CkptfsError:
        """Return the error of a chunk that the store does not have whole: a PrunedError if it was let go.

        One LIST, and a GET for each gc record that is new to us and not older than the pack.
        """
        packs = {chunk.pack, *([chunk.base.pack] if chunk.base is not None else [])}
        try:
            newest = self._history.newest()
            with self._lock:
                pruned = newest is not None and self._condemned.among(packs, newest)
        except CkptfsError:
            return error  # what is wrong with the chunk says more
        if not pruned:
            return error
        gone = PrunedError(f"chunk {chunk.hash.hex()}: its pack {pruned[0]} went with the versions that were pruned")
        gone.__cause__ = error
        return gone
