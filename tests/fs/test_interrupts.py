"""Waits end when the program that waits is to end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ckptfs.fs.interrupts import Interrupts, give_up_if_interrupted

# a process with a signal pending that it handles, and never comes to handle
_BUSY = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGUSR1, lambda *_: None)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped, so that signals to it stay pending."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_interrupt_counts_even_if_it_comes_before_its_request(stopped: subprocess.Popen[bytes]) -> None:
    interrupts = Interrupts()
    interrupts.interrupt(7)
    stopped.send_signal(signal.SIGINT)
    with interrupts.serving(7, stopped.pid), pytest.raises(InterruptedError):
        give_up_if_interrupted()


def test_a_signal_that_ends_no_program_does_not_end_a_wait(stopped: subprocess.Popen[bytes]) -> None:
    interrupts = Interrupts()
    with interrupts.serving(7, stopped.pid):
        stopped.send_signal(signal.SIGUSR1)
        interrupts.interrupt(7)
        give_up_if_interrupted()
        stopped.send_signal(signal.SIGTERM)
        with pytest.raises(InterruptedError):
            give_up_if_interrupted()


def test_an_interrupt_is_of_one_request(stopped: subprocess.Popen[bytes]) -> None:
    interrupts = Interrupts()
    stopped.send_signal(signal.SIGINT)
    with interrupts.serving(7, stopped.pid):
        interrupts.interrupt(8)
        give_up_if_interrupted()
        interrupts.interrupt(7)
        with pytest.raises(InterruptedError):
            give_up_if_interrupted()
    give_up_if_interrupted()  # outside any request
