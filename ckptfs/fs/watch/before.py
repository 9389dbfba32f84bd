"""What a watch takes up from the one before: pending versions, and what its directory was."""

import os

from ckptfs.cache.pending import PendingVersion, disk_bytes
from ckptfs.capture.journal import JournalState
from ckptfs.errors import NoSuchVersionError
from ckptfs.format.manifest import LocalData, Tree
from ckptfs.fs.recovery import Taken
from ckptfs.fs.tenure import Tenure
from ckptfs.fs.watch.answers import Answers
from ckptfs.fs.watch.marker_file import replace_text
from ckptfs.fs.watch.names import ANSWERS
from ckptfs.fs.watch.place import watched_in_epoch
from ckptfs.versions.history import History


def knows_again(tenure: Tenure, root_fd: int, answers: Answers) -> bool:
    """True if a directory was watched by the session before, and nobody wrote to the store since: it may stay as it is.

    One that was made anew, or is some other, must not pass for one in which all was deleted.

    Args:
        answers: Of this watch; they are written down at once, by which the next one knows the directory again.
    """
    if not tenure.is_ours or watched_in_epoch(root_fd) != tenure.last_epoch:
        return False
    replace_text(root_fd, ANSWERS, answers.text())
    return True


def base_tree(history: History, taken: Taken, state: JournalState | None) -> Tree:
    """Return what the directory was when a watch of this cache directory last saved or restored it."""
    if state is None:
        return {}
    if state.intended == (taken.version, taken.commit_id):
        state.adopt_intended()
    try:
        if state.restored is not None:
            return history.tree(history.version(state.restored))
        record = history.version(state.version) if state.version else None
    except NoSuchVersionError:
        return {}
    return history.tree(record) if record is not None and record.commit_id == state.commit_id else {}


def kept_bytes(pending: PendingVersion) -> int:
    """Return the local disk that a pending version keeps."""
    extents = (extent for entry in pending.part().entries for extent in entry.extents)
    # all names of a file have the same one
    indices = {extent.index for extent in extents if isinstance(extent, LocalData)}
    return sum(disk_bytes(os.stat(pending.data_path(index))) for index in indices)
