"""Rules for every test of the repository: which tools may be missing, and which log lines may be left unexplained.

Rules:
    K1  with CI=true a test that skips itself fails: a tool missing there would hide what it tests
    K2  an ERROR record in the log that no test expected fails the test (`expects_errors` says that one is part of it)
    K3  Ctrl-C works for the programs that tests start, also where this one was started with it ignored (`make test &`)
"""

import logging
import os
import signal
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "expects_errors: the test makes ckptfs log at level ERROR on purpose")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    # a whole module that skips itself
    return _refuse_skip((yield))


def _refuse_skip(report: Report) -> Report:
    # an expected failure is reported as a skip too, but it ran
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true (K1): {reason}"
    return report


@pytest.fixture(autouse=True)
def no_unexpected_error_logs(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Generator[None]:
    yield
    if request.node.get_closest_marker("expects_errors") is None:
        records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
        errors = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
        assert not errors, f"unexpected ERROR records (K2): {errors}"
