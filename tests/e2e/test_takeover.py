"""kill -9 of the process that serves a mount, again and again: no program sees an error, and every version is whole.

CKPTFS_TEST_TAKEOVERS sets how often.
"""

import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.e2e.busy_program import digests
from tests.e2e.programs import Program
from tests.mounting import Mount, Mounts, wait_until

TAKEOVERS = int(os.environ.get("CKPTFS_TEST_TAKEOVERS", "100"))
SEED = int(os.environ.get("CKPTFS_TEST_SEED", "20261124"))
TAKEOVERS_A_SAVE = 10
KINDS = ("write", "write", "name", "name", "read", "save")


def kill_server(mount: Mount) -> float:
    """kill -9; return how long it takes until something that the kernel does not know itself is answered."""
    pid, began_s = mount.pid, time.monotonic()
    os.kill(pid, 9)
    mount.marker()
    took_s = time.monotonic() - began_s
    assert mount.status()["pid"] != pid
    return took_s


def any_ended(programs: list[Program]) -> bool:
    """True if something went wrong in one of them."""
    return any(program.has_ended for program in programs)


def wait_for_saves(programs: list[Program], count: int) -> None:
    """Wait until a program has saved so often; no longer if something went wrong."""
    saver = programs[KINDS.index("save")]
    wait_until(lambda: any_ended(programs) or len(saver.said()) >= count, 60, f"{count} saves are made")


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_program_notices_that_the_server_is_killed_again_and_again(mount: Mounts, tmp_path: Path) -> None:
    mounted = mount(transport="passthrough", deadline_s=390, sync_timeout_s=120.0)
    chance = random.Random(SEED)
    programs = [
        Program(kind, mounted.root / f"{kind}-{number}", SEED + number, tmp_path / f"{kind}-{number}")
        for number, kind in enumerate(KINDS)
    ]
    took_s = []
    try:
        for number in range(TAKEOVERS):
            time.sleep(chance.uniform(0.0, 0.5))
            took_s.append(kill_server(mounted))
            if (number + 1) % TAKEOVERS_A_SAVE == 0:
                # on a busy machine, many a server is killed before it has answered what a save asks of it
                wait_for_saves(programs, (number + 1) // TAKEOVERS_A_SAVE)
            if any_ended(programs):
                break
        said = [program.stop() for program in programs]
    except BaseException as error:
        error.add_note(mounted.log[-3000:])
        raise
    finally:
        for program in programs:
            program.kill()
    # on a busy machine some take as long as it takes to get a processor
    assert sorted(took_s)[len(took_s) // 2] < 2.0, sorted(took_s)
    assert max(took_s) < 20.0, sorted(took_s)[-5:]
    saved = [json.loads(line) for line in said[KINDS.index("save")][:-1]]
    mounted.sync()
    assert mounted.unmount() == 0
    assert_versions_are_whole(mount(cache="empty"), saved)


def assert_versions_are_whole(mounted: Mount, saved: list[dict]) -> None:  # type: ignore[type-arg]
    """Every version that was saved holds what the program had written when it saved."""
    top = f"save-{KINDS.index('save')}"
    numbers = sorted(int(name) for name in os.listdir(mounted.root / ".versions") if name.isdigit())
    assert numbers == list(range(1, numbers[-1] + 1))
    assert len(saved) >= TAKEOVERS // TAKEOVERS_A_SAVE
    for row in saved:
        tree = mounted.root / ".versions" / str(row["version"]) / top
        assert row["note"] == {"turn": row["turn"]}
        assert digests(tree) == row["content"], row["turn"]
    # a touch that was going on may have been made twice, but none is made of nothing
    assert len(numbers) <= 1.5 * len(saved) + 5
