"""The `ckptfsd` program: reads its arguments and its configuration, then runs the daemon."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from ckptfs import __version__, logs
from ckptfs.cli.failures import FAILED, say_error
from ckptfs.errors import CkptfsError

_DEFAULT = Path("/etc/ckptfs/ckptfs.toml")
_NEEDED = ("aiohttp", "prometheus_client", "pydantic")


def run(arguments: list[str]) -> int:
    """Run the daemon; return an exit code: 0 done, 1 failed, 2 usage."""
    parsed = _parser().parse_args(arguments)
    try:
        _require()
        from ckptfsd.configuration import load_configuration
        from ckptfsd.service import serve

        path = Path(os.path.abspath(parsed.config))
        configuration = load_configuration(path)
        if parsed.check:
            sys.stdout.write(f"{path} is valid: {', '.join(configuration.mounts) or 'no mount'}\n")
            return 0
        os.environ[logs.FORMAT_VARIABLE] = configuration.daemon.log_format
        logs.configure(verbose=configuration.daemon.log_level == "debug", identifier="ckptfsd")
        # asyncio says at INFO which selector it uses
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        return asyncio.run(serve(path, configuration))
    except CkptfsError as error:
        say_error(error.fact, error.hint, program="ckptfsd")
        return FAILED


def _require() -> None:
    """Raise a CkptfsError if what only the daemon needs is not installed."""
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise CkptfsError(
            f"ckptfsd needs {', '.join(missing)}, which ckptfs alone does not", hint="pip install 'ckptfs[daemon]'"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ckptfsd",
        description="Keep every mount of a configuration up. SIGTERM drains, SIGHUP reloads, SIGUSR1 saves all.",
        epilog="docs/DAEMON.md tells more; systemd/ckptfs.toml.example has every setting.",
    )
    default = Path(os.environ.get("CKPTFS_CONFIG") or _DEFAULT)
    parser.add_argument(
        "--config", type=Path, default=default, metavar="FILE", help=f"default: $CKPTFS_CONFIG, {_DEFAULT}"
    )
    parser.add_argument("--check", action="store_true", help="say whether the configuration is valid, and end")
    parser.add_argument("--version", action="version", version=f"ckptfsd {__version__}")
    return parser


def main() -> NoReturn:
    """Run the program with the arguments it was started with."""
    sys.exit(run(sys.argv[1:]))
