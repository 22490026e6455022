"""SIGTERM ends a run as Ctrl-C does: workers are ended, and the record and the summary are written."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

#: Seconds after a signal in which others do not count. A terminal, tox and CI systems each send several, and the second
#: would end a run that is just writing its record.
_ENDING_S = 10


def end_in_order() -> Callable[[], None]:
    """Raise `KeyboardInterrupt` at SIGINT and SIGTERM; returns what undoes this. Signals that are ignored remain so."""
    last = float("-inf")

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > _ENDING_S:
            last = time.monotonic()
            raise KeyboardInterrupt(signal.Signals(number).name)

    usual = (signal.default_int_handler, signal.SIG_DFL)
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: handler for number in signals if (handler := signal.getsignal(number)) in usual}
    for number in before:
        signal.signal(number, interrupt)

    def undo() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return undo
