"""Distributed jobs: who saves, and saving together."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ckptfs
from ckptfs.client.barrier import BarrierError, together
from ckptfs.client.rank import Rank
from ckptfs.errors import InvalidInputError, NoSuchVersionError, ReadOnlyError
from tests.cli.scene import ckptfs as run
from tests.mounting import Mount, Mounts

_RANK = """
import os, sys, time, ckptfs
checkpoint = ckptfs.checkpoint(sys.argv[1])
for step in range(3):
    time.sleep(0.05 * int(os.environ["RANK"]))
    (checkpoint.directory / f"part-{os.environ['RANK']}").write_text(str(step))
    version = checkpoint.save({"step": step}, barrier=True)
    print(version.number)
"""


def _ranks(root: Path, count: int, only: int | None = None, **environment: str) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(root)],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (range(count) if only is None else (only,))
    ]


def test_another_rank_than_zero_saves_nothing_and_says_so_once(
    shared: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = ckptfs.checkpoint(shared.root, ranks="zero")
    before = shared.status()["version"]
    monkeypatch.setenv("RANK", "1")
    skipped = [checkpoint.save({"step": step}, wait=True) for step in range(2)]
    assert [(version.number, version.state) for version in skipped] == [(0, "skipped")] * 2
    assert skipped[0].info().keys() == shared.marker().keys()
    with pytest.raises(NoSuchVersionError, match="skipped cannot be loaded"):
        checkpoint.load(skipped[0])
    assert [record.getMessage() for record in caplog.records] == [
        "skipped save: rank=1 is not 0, and only that one saves (ranks=zero)"
    ]
    assert shared.status()["version"] == before
    monkeypatch.setenv("RANK", "0")
    assert checkpoint.save().number == before + 1
    monkeypatch.delenv("RANK")
    assert checkpoint.save().number == before + 2


def test_without_that_rule_every_rank_saves(shared: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shared.status()["version"]
    monkeypatch.setenv("RANK", "1")
    assert ckptfs.checkpoint(shared.root).save().number == before + 1
    monkeypatch.setenv("CKPTFS_RANKS", "zero")
    assert ckptfs.checkpoint(shared.root).save().state == "skipped"


def test_from_the_shell_the_rule_is_the_same(shared: Mount) -> None:
    before = shared.status()["version"]
    done = run("save", shared.root, "--ranks=zero", "--json", env={"RANK": "2"})
    assert (done.code, done.json) == (0, {"version": 0, "state": "skipped"})
    assert "skipped: rank 2 is not 0" in done.err
    assert run("save", shared.root, "--ranks=zero", "--json", env={"RANK": "0"}).json["version"] == before + 1
    assert run("save", shared.root, "--json", env={"RANK": "2"}).json["version"] == before + 2


def test_ranks_that_save_together_make_one_version_of_what_all_have_written(shared: Mount) -> None:
    root = shared.root / "job"
    first = shared.status()["version"] + 1
    root.mkdir()
    jobs = _ranks(root, 3, CKPTFS_RANKS="zero")
    said = [job.communicate(timeout=60) for job in jobs]
    assert [out.split() for out, _ in said] == [[str(first + step) for step in range(3)]] * 3, said
    shared.sync()
    for step in range(3):
        version = shared.root / ".versions" / str(first + step) / "job"
        assert {path.name: path.read_text() for path in version.iterdir()} == {
            f"part-{rank}": str(step) for rank in range(3)
        }
        assert not (version.parent / ".ckptfs-ranks").exists()


def test_jobs_that_share_a_mount_do_not_wait_for_each_other_s_ranks(shared: Mount) -> None:
    # they meet at the root of the mount, whatever their directories
    one, another = ({"MASTER_ADDR": "localhost", "MASTER_PORT": port} for port in ("29500", "29501"))
    root = shared.root / "jobs"
    root.mkdir()
    (waiting,) = _ranks(root, 2, 0, **one)
    while not any(name.startswith(".ckptfs-ranks") for name in os.listdir(shared.root)):
        time.sleep(0.02)
    said = [job.communicate(timeout=100) for job in _ranks(root, 2, **another)]
    (late,) = _ranks(root, 2, 1, **one)
    said += [job.communicate(timeout=100) for job in (waiting, late)]
    versions = [out.split() for out, _ in said]
    assert versions[0] == versions[1] != versions[2] == versions[3], said
    assert [len(each) for each in versions] == [3, 3, 3, 3]


def test_a_rank_that_dies_is_noticed_by_those_that_wait_for_it(shared: Mount) -> None:
    root = shared.root / "dying"
    root.mkdir()
    leader, follower = _ranks(root, 2)
    leader.kill()
    leader.communicate(timeout=60)
    # another takes its place, and fails
    with pytest.raises(OSError, match="no room"):
        together(shared.root, Rank(0, 2, 0, 2), _fail, timeout_s=60)
    assert "local rank 0 could not save: no room" in follower.communicate(timeout=60)[1]


def _fail() -> int:
    raise OSError("no room")


def test_ranks_that_do_not_come_are_waited_for_no_longer_than_allowed(shared: Mount) -> None:
    for local_rank in (0, 1):
        with pytest.raises(BarrierError, match=r"did not come|not all of the 1"):
            together(shared.root, Rank(local_rank, 2, local_rank, 2), lambda: 1, timeout_s=0.1)
    assert not (shared.root / ".ckptfs-ranks").exists()


def test_on_a_machine_that_cannot_save_no_rank_waits_for_the_others(
    mount: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptfs.checkpoint(mount(name="writer").root).save(wait=True)
    reader = mount(name="reader", cache="its own", read_only=True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for local_rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        monkeypatch.setenv("RANK", f"{2 + int(local_rank)}")
        with pytest.raises(ReadOnlyError, match="it is read-only"):
            ckptfs.checkpoint(reader.root).save(barrier=True, barrier_timeout_s=60)
        skipped = ckptfs.checkpoint(reader.root, ranks="zero").save(barrier=True, barrier_timeout_s=60)
        assert skipped.state == "skipped"
    # and of the first rank's machine it is not hidden
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ReadOnlyError, match="it is read-only"):
        ckptfs.checkpoint(reader.root, ranks="zero").save(barrier=True, barrier_timeout_s=60)


def test_a_rank_that_died_on_its_way_is_waited_for_as_long_as_asked(
    shared: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    before = shared.status()["version"]
    with pytest.raises(BarrierError, match="not all of the 1 other local ranks"):
        ckptfs.checkpoint(shared.root).save(barrier=True, barrier_timeout_s=0.1)
    assert shared.status()["version"] == before


def test_a_rank_that_is_no_number_and_a_rule_that_is_none_are_named(
    shared: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="expected one of all, zero"):
        ckptfs.checkpoint(shared.root, ranks="some")
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InvalidInputError, match=r"\$RANK is 'first'"):
        ckptfs.checkpoint(shared.root).save()
