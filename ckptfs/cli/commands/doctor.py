"""`ckptfs doctor`: will it work here, and if not, what to do."""

from itertools import chain

import click

from ckptfs.cli.access import StoreAccess, access_options
from ckptfs.cli.failures import FAILED, say_error
from ckptfs.cli.output import print_json, printable
from ckptfs.cli.parameters import Command, json_option, store_address


@click.command("doctor", cls=Command)
@click.argument("store", type=store_address, metavar="[STORE|MOUNTPOINT]", required=False)
@access_options
@json_option
def command(store: str | None, as_json: bool, access: StoreAccess) -> int:
    """Check this machine, and the store if one is given; say what to do about what is found.

    A store is probed with one scratch object, which is deleted. Exit code 1 if a check fails.
    """
    from ckptfs.cli.checks import check_machine
    from ckptfs.cli.store_checks import check_store
    from ckptfs.cli.stores import store_url
    from ckptfs.fs.options import default_cache_directory

    findings = chain(
        check_machine(access.cache_dir or default_cache_directory()),
        check_store(store_url(store), access) if store is not None else (),
    )
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            click.echo(f"{finding.result:<4}  {finding.check}: {printable(finding.fact)}")
            if finding.hint:
                click.echo(f"      {printable(finding.hint)}")
    if as_json:
        print_json([finding._asdict() for finding in seen])
    failed = [finding for finding in seen if finding.result == "fail"]
    if failed:
        say_error(f"{', '.join(finding.check for finding in failed)}: {failed[0].fact}", failed[0].hint)
        return FAILED
    return 0
