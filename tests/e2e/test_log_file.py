"""mount.log is bounded while a mount writes to it with all its processes."""

import pytest

from ckptfs.log_file import MAX_FILE_BYTES
from tests.mounting import Mounts, wait_until


@pytest.mark.fuse
def test_a_full_log_makes_room_and_all_processes_of_the_mount_go_on_in_the_new_one(mount: Mounts) -> None:
    first = mount(transport="passthrough")
    assert first.unmount() == 0
    log = first.cache / "mount.log"
    older = log.read_text()
    with log.open("a") as file:
        file.write("x" * MAX_FILE_BYTES + "\n")
    mounted = mount(transport="passthrough")
    mounted.save()
    mounted.sync()
    # the server begins the new file, the upload process goes on in it, and so does the keeper's next server
    assert log.with_name("mount.log.1").read_text().startswith(older)
    for line in ("mounted store=", "committed version=1"):
        wait_until(lambda line=line: line in mounted.log, 10, line)  # type: ignore[misc]
    mounted.kill_server()
    mounted.save()
    mounted.sync()
    for line in ("another takes over", "committed version=2"):
        wait_until(lambda line=line: line in mounted.log, 10, line)  # type: ignore[misc]
    assert log.stat().st_size < MAX_FILE_BYTES
    assert mounted.unmount() == 0
