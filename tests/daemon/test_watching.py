"""Noticing that the configuration has changed, by itself."""

import asyncio
import os
import time
from pathlib import Path

from ckptfs.libc import RENAME_EXCHANGE, renameat2
from ckptfsd.watching import ConfigurationWatcher


def test_it_ends_though_directories_beside_the_configuration_were_exchanged(tmp_path: Path) -> None:
    for name in ("conf.d", "conf.new"):
        (tmp_path / name).mkdir()
    configuration = tmp_path / "ckptfs.toml"
    configuration.write_text("")

    async def watch() -> None:
        watcher = ConfigurationWatcher(configuration, lambda: None)
        watcher.start()
        renameat2(-1, os.fsencode(tmp_path / "conf.new"), -1, os.fsencode(tmp_path / "conf.d"), RENAME_EXCHANGE)
        # watchdog's thread takes note of it; what it has by then makes no difference but whether this test can fail
        time.sleep(1.0)
        watcher.stop()

    asyncio.run(watch())
