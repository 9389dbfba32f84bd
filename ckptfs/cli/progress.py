"""Progress of long work, on stderr: a bar on a terminal, a line now and then elsewhere. Only this module uses rich."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

from ckptfs.units import format_size

_LINE_EVERY_S = 5.0
"""Often enough to see that a job lives, seldom enough for a log that is kept."""


class Report(Protocol):
    """Called with how much is done, of how much."""

    def __call__(self, done: int, total: int, /) -> None: ...


@contextmanager
def progress(label: str, *, in_bytes: bool = True) -> Iterator[Report]:
    """Show the progress of the work inside the block.

    Args:
        label: What is done, as a present participle: `restoring`.
        in_bytes: The counts are bytes; otherwise they are things.

    Yields:
        The function to call as the work goes on; safe to call from several threads.
    """
    if sys.stderr.isatty():
        with _bar(label, in_bytes) as report:
            yield report
    else:
        yield _lines(label, in_bytes)


@contextmanager
def _bar(label: str, in_bytes: bool) -> Iterator[Report]:
    # 150 ms to import: only where there is somebody to look at it
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount: list[ProgressColumn] = [DownloadColumn(True), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    columns = [TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def report(done: int, total: int, /) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def _lines(label: str, in_bytes: bool) -> Report:
    shown = time.monotonic()

    def report(done: int, total: int, /) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < _LINE_EVERY_S:
            return
        shown = now
        amounts = (format_size(done), format_size(total)) if in_bytes else (str(done), str(total))
        click.echo(f"{label}: {amounts[0]} of {amounts[1]}", err=True)

    return report
