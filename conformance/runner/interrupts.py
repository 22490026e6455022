"""SIGTERM ends a run as Ctrl-C does: workers are ended, and the record and the summary are written."""

from __future__ import annotations

import signal
import time
from types import FrameType

#: Seconds in which signals do not count once the run ends. A terminal, tox and CI systems each send several, and the
#: second would end a run that is just writing its record.
_ENDING_S = 10


class Interrupts:
    """From its creation on, raises `KeyboardInterrupt` at SIGINT and SIGTERM. Signals that are ignored remain so."""

    def __init__(self) -> None:
        self._ending = float("-inf")
        usual = (signal.default_int_handler, signal.SIG_DFL)
        signals = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: handler for number in signals if (handler := signal.getsignal(number)) in usual}
        for number in self._before:
            signal.signal(number, self._interrupt)

    def ending(self) -> None:
        """The run is ending, with or without a signal: further signals are ignored."""
        self._ending = time.monotonic()

    def undo(self) -> None:
        """Restore the former handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._ending > _ENDING_S:
            self.ending()
            raise KeyboardInterrupt(signal.Signals(number).name)
