"""Making a tree of what was drafted while names came and went.

Where nothing holds programs back, a directory may go between two looks (`git gc`, `rm -r`): an entry below it would
have no parent, and what looked unchanged would be left in a version that has the directory no more. A version that is
no tree is refused by the upload, and by then others build on it. So such names count as gone, too.
"""

from collections.abc import Collection

from ckptfs.format.manifest import Entry, Kind


def fit(entries: dict[bytes, Entry], tombstones: set[bytes], known: Collection[bytes]) -> set[bytes]:
    """Take out the entries that have no directory above them, and say that all below such a place is gone.

    Args:
        entries: What changed, by path; some are removed.
        tombstones: Paths of the version before that are gone; some are added.
        known: All paths of the version before.

    Returns:
        The paths for which this was done, with those that were not looked at because they had not changed.
    """
    directories, lost = {b""}, set()
    # a parent comes before all that is below it
    for path in sorted(entries.keys() | (set(known) - tombstones)):
        entry = entries.get(path)
        if path.rpartition(b"/")[0] not in directories:
            lost.add(path)
            entries.pop(path, None)
            if path in known:
                tombstones.add(path)
        elif entry is None or entry.kind is Kind.DIRECTORY:
            # what has not changed and has something below it was a directory when it was looked at
            directories.add(path)
    return lost
