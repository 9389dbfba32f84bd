"""`ckptfs lend`: mounts for servers that may not mount."""

import os
import signal
from pathlib import Path

import click

from ckptfs.cli.parameters import PATH, Command


@click.command("lend", cls=Command)
@click.argument("root", type=PATH)
@click.option("--socket", "address", type=PATH, required=True, metavar="PATH", help="Where servers ask for mounts.")
@click.option(
    "--allow-uid",
    "users",
    type=click.IntRange(0),
    multiple=True,
    metavar="N",
    help="A user who may ask; may be given more than once.  [default: who runs this]",
)
@click.option("--allow-other", is_flag=True, help="Let servers ask for --allow-other.")
def command(root: Path, address: Path, users: tuple[int, ...], allow_other: bool) -> None:
    """Mount below the directory ROOT for others: `ckptfs mount STORE ROOT/NAME --fuse-socket PATH`.

    Runs with CAP_SYS_ADMIN, so that what serves the mounts, and talks to the network, needs no privileges. It passes
    descriptors of /dev/fuse on and sees no data. A mount ends with its server; ending this process ends none.
    """
    import logging

    from ckptfs.fs.launch import configure_logging
    from ckptfs.fs.transport.lending import Lender

    configure_logging(verbose=False)
    lender = Lender(root, address, users or (os.geteuid(),), lets_others_in=allow_other)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: lender.stop())
    logging.getLogger("ckptfs").info("lending root=%s socket=%s", root, address)
    lender.run()
