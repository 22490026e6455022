"""Signals that end a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from conformance.runner import interrupts
from conformance.runner.interrupts import Interrupts

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Handlers as in a new process, and those of before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Interrupts()
    with pytest.raises(KeyboardInterrupt, match=number.name):
        os.kill(os.getpid(), number)
    for again in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), again)  # while the record is written
    monkeypatch.setattr(interrupts, "_ENDING_S", 0)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    handlers.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_ignored_remains_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    handlers = Interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    handlers.undo()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_signal_changes_nothing_when_the_run_ends_anyway() -> None:
    handlers = Interrupts()
    handlers.ending()
    os.kill(os.getpid(), signal.SIGTERM)
    handlers.undo()
