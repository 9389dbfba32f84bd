"""The whole service: the daemon, and those who may ask it something."""

import os
from pathlib import Path

from ckptfsd.configuration import Configuration
from ckptfsd.daemon import Daemon
from ckptfsd.http import ControlServer


async def serve(path: Path, configuration: Configuration) -> int:
    """Run until SIGTERM; return an exit code. Raises CkptfsError: It could not begin."""
    # relative paths of the configuration have been resolved; nothing is to keep a directory busy
    os.chdir("/")
    daemon = Daemon(path, configuration)
    daemon.lock()
    server = ControlServer(daemon)
    await server.start()
    try:
        return await daemon.run()
    finally:
        await server.stop()
