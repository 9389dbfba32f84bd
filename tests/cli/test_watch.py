"""The commands on a watched directory; no /dev/fuse is needed."""

import os
import signal
from pathlib import Path

from ckptfs.watch_table import is_alive
from tests.cli.scene import assert_failed, ckptfs
from tests.mounting import wait_until


def test_commands_take_a_watched_directory_from_beginning_to_end(tmp_path: Path) -> None:
    store, directory, cache = f"file://{tmp_path}/store", tmp_path / "ckpt", tmp_path / "cache"
    assert_failed(ckptfs("watch", store, directory), "does not exist", "mkdir -p")
    assert_failed(ckptfs("watch", f"file://{directory}/store", directory), "would be inside", "another directory")
    directory.mkdir()
    (directory / "model").write_bytes(b"weights")
    watching = ckptfs("watch", store, directory, "--cache-dir", cache, "--drain-timeout", "5s")
    assert (watching.code, watching.out) == (0, ""), watching.err
    pid = 0
    try:
        status = ckptfs("status", directory / "anywhere", "--json").json
        pid = status["pid"]
        assert (status["kind"], status["store"], status["version"]) == ("watch", store, 0)
        assert ckptfs("save", directory, "-m", "step=1", "--wait").out == "saved version 1, durable\n"
        assert ckptfs("recover", directory).err == "nothing was set aside, and nothing waits for upload\n"
        assert ckptfs("save", directory, "--json").json["version"] == 2
        assert [version["version"] for version in ckptfs("log", directory, "--json").json][-1:] == [1]
        assert store in ckptfs("status").out
        ended = ckptfs("umount", directory)
        assert (ended.code, ended.out) == (0, f"ended the watch of {directory}\n"), ended.err
        assert os.listdir(directory) == ["model"]
        # one that is killed is said to be gone, and is cleared away
        ckptfs("watch", store, directory, "--cache-dir", cache)
        pid = ckptfs("status", directory, "--json").json["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(directory), 30, "it is dead")
        assert_failed(ckptfs("save", directory), "is gone", "ckptfs watch")
        assert "cleared away" in ckptfs("umount", directory).out
        assert os.listdir(directory) == ["model"]
    finally:
        if pid and is_alive(directory):
            os.kill(pid, signal.SIGKILL)
