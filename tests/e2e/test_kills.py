"""kill -9 of every process at random moments: what was captured is there afterwards, what was not is kept aside.

CKPTFS_TEST_SAVES sets another number of saves.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptfs.format.commit import CommitRecord
from ckptfs.store.open import open_store
from ckptfs.versions.history import open_history
from tests.e2e.story import SEED, Story, assert_history_is_whole
from tests.mounting import Mounts

SAVES = int(os.environ.get("CKPTFS_TEST_SAVES", "200"))


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_captured_version_is_lost_when_mount_and_upload_process_are_killed_at_random_moments(
    mount: Mounts, tmp_path: Path
) -> None:
    story = Story(mount, mount.file_store, SAVES, moves=False)
    story.run()
    assert story.kills > SAVES // 40, story
    assert story.upload_kills > SAVES // 40, story
    assert story.trainer.newest > SAVES // 2
    assert_history_is_whole(mount.file_store, story.trainer, tmp_path / "restored")


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_another_machine_goes_on_from_what_was_durable_and_the_rest_stays_where_it_was_captured(
    mount: Mounts, tmp_path: Path
) -> None:
    story = Story(mount, mount.file_store, SAVES // 2, moves=True)
    story.run()
    assert story.moves > 0, story
    assert_history_is_whole(mount.file_store, story.trainer, tmp_path / "restored")


@pytest.mark.fuse
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_captured_version_is_lost_on_s3_either(mount: Mounts, bucket: str, tmp_path: Path) -> None:
    story = Story(mount, bucket, SAVES // 4, moves=False)
    story.run()
    assert story.kills > 0, story
    assert_history_is_whole(bucket, story.trainer, tmp_path / "restored")


_TRAINER = """
import os, sys, time
root, step = sys.argv[1], int(sys.argv[2])
while True:
    step += 1
    # in place, and as a new file: both are half written at some moments
    for name in ("weights.bin", f"step-{step}.bin"):
        with open(os.path.join(root, name), "wb") as file:
            for _ in range(20):
                file.write(step.to_bytes(4, "little") * 5000)
    with open(os.path.join(root, ".save"), "w") as marker:
        marker.write(f"step={step}")
    print(step, flush=True)
    os.unlink(os.path.join(root, f"step-{step}.bin"))
"""


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_trainer_that_is_killed_while_it_writes_has_every_version_whose_touch_returned(mount: Mounts) -> None:
    chance = random.Random(SEED)
    # hundreds of versions, and a machine may be busy
    mounted = mount(sync_timeout_s=100.0)
    step = 0
    for _ in range(8):
        trainer = subprocess.Popen(
            [sys.executable, "-c", _TRAINER, str(mounted.root), str(step)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(chance.uniform(0.2, 0.6))
        trainer.send_signal(signal.SIGKILL)
        said, _ = trainer.communicate(timeout=30)
        step = max([step, *(int(line) for line in said.split())])
    mounted.sync()
    assert mounted.unmount() == 0
    again = mount(cache="empty")
    note = again.marker()["note"]
    # the last touch may have captured without having returned, or made a version out of a kill between open and close
    versions = sorted(int(name) for name in os.listdir(again.root / ".versions") if name.isdigit())
    assert versions == list(range(1, versions[-1] + 1))
    assert note is None or note["step"] >= step
    saved = set()
    for record in _records(mount.file_store):
        if isinstance(record.note, dict):
            saved.add(record.note["step"])
            assert_step_is_whole(again.root / ".versions" / str(record.version), int(record.note["step"]))
    assert saved >= set(range(1, step + 1))


def assert_step_is_whole(tree: Path, step: int) -> None:
    """What the trainer had written when it touched the marker is all there."""
    for name in ("weights.bin", f"step-{step}.bin"):
        assert (tree / name).read_bytes() == step.to_bytes(4, "little") * 100_000


def _records(url: str) -> list[CommitRecord]:
    store = open_store(url)
    try:
        return list(open_history(store).versions())
    finally:
        store.close()
