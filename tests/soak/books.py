"""What a soak knows must be in the store, and the comparison of every version with what was captured."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.format.commit import CommitRecord
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.transfer.restore import restore
from ckptfs.versions.history import History, open_history

Hashes = dict[str, str]
"""File to the hash of its bytes."""


@dataclass
class Books:
    """The trainer's records, and what became of the versions.

    Invariant: every step whose touch returned is a version, but for those that another machine could not have.
    """

    records: Path
    target: Path
    """A directory for restoring into."""
    captured: dict[int, Hashes] = field(default_factory=dict)
    """Step to what its version holds; of those whose touch returned."""
    tried: dict[int, Hashes] = field(default_factory=dict)
    """And of those whose touch may have captured."""
    checked: dict[int, int] = field(default_factory=dict)
    """Version to its step; of those that were compared."""
    left_behind: set[int] = field(default_factory=set)
    """Steps that were captured on a machine from which another took over."""
    _read_bytes: int = 0

    @property
    def last_step(self) -> int:
        return max(self.tried, default=0)

    def read(self) -> None:
        """Take in what the trainer has said since."""
        if not self.records.exists():
            return
        with self.records.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # half written when it was killed, or is being written
                self._read_bytes += len(line)
                self._take(line)

    def skip_torn_line(self) -> None:
        """The trainer is dead: what it has said in part is no record."""
        self.read()
        if self.records.exists() and self.records.stat().st_size > self._read_bytes:
            os.truncate(self.records, self._read_bytes)

    def _take(self, line: bytes) -> None:
        record = json.loads(line)
        if record["what"] == "trying":
            self.tried[record["step"]] = record["files"]
        else:
            self.captured[record["step"]] = self.tried[record["step"]]

    def other_machine(self, newest_step: int) -> None:
        """Another machine went on from a step: later ones are kept where they were captured, and in no history."""
        self.left_behind |= {step for step in self.captured if step > newest_step}

    def check_tree(self, root: Path, step: int) -> None:
        """A directory holds what was saved at a step."""
        found = {
            os.fspath(path.relative_to(root)): hash_bytes(path.read_bytes()).hex()
            for path in root.rglob("*")
            if path.is_file()
        }
        assert found == self.tried[step], f"{root} is not as it was saved at step {step}"

    def check_new_versions(self, store: Store) -> int:
        """Restore and compare every version that was not compared yet; return how many."""
        history = open_history(store)
        dropped = set(self.checked)
        count = 0
        for number in history.numbers():
            if number not in dropped:
                self._check(history, store, history.version(number))
                count += 1
        return count

    def _check(self, history: History, store: Store, record: CommitRecord) -> None:
        assert isinstance(record.note, dict), record
        step = int(record.note["step"])
        self.read()
        assert step in self.tried, f"version {record.version} is of step {step}, which nobody saved"
        assert step not in self.checked.values(), f"step {step} is two versions"
        restore(history, store, record, self.target, [], lambda done, total: None)
        self.check_tree(self.target, step)
        shutil.rmtree(self.target)
        self.checked[record.version] = step

    def check_complete(self) -> None:
        """Every touch that returned has made a version, in the order of the steps."""
        self.read()
        lost = self.captured.keys() - set(self.checked.values()) - self.left_behind
        assert not lost, f"the versions of steps {sorted(lost)} are lost"
        steps = [step for _, step in sorted(self.checked.items())]
        assert steps == sorted(steps), "versions are not in the order in which they were saved"
        assert sorted(self.checked) == list(range(1, len(self.checked) + 1)), "numbers are missing"
