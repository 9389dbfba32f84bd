"""The paths and sizes of the newest captured version, with their totals kept as they change."""

from dataclasses import dataclass, field

from ckptfs.format.manifest import Kind, Tree

NOT_A_FILE = -1


@dataclass(slots=True)
class Sizes:
    """Path to size of every file, NOT_A_FILE for all else."""

    by_path: dict[bytes, int] = field(default_factory=dict)
    files: int = 0
    """Regular files, each name counted."""
    total_bytes: int = 0
    """Sum of their sizes."""

    def replace(self, path: bytes, size: int | None) -> int | None:
        """Set a path's size, or remove the path with None; return what was there."""
        old = self.by_path.pop(path, None)
        if old is not None and old != NOT_A_FILE:
            self.files -= 1
            self.total_bytes -= old
        if size is not None:
            self.by_path[path] = size
            if size != NOT_A_FILE:
                self.files += 1
                self.total_bytes += size
        return old

    def load(self, tree: Tree) -> None:
        """Start over with a whole version."""
        self.by_path.clear()
        self.files = self.total_bytes = 0
        for path, entry in tree.items():
            self.replace(path, entry.size_bytes if entry.kind is Kind.FILE else NOT_A_FILE)
