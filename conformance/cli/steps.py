"""Progress of a long command: its step, a sign of life while that lasts, and the memory that it used."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterable

#: Seconds between two signs of life.
_EVERY = 10
_MIB = 1 << 20


class Steps:
    """Prints each step when it begins, its time and the process's memory while it lasts, and how long it took.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._began = time.monotonic()
        self._ended: threading.Event | None = None
        self._detail = ""

    def begin(self, what: str) -> None:
        """A step begins."""
        self.end()
        self._done += 1
        print(f"[{self._done}/{self._count}] {what}", end="", flush=True, file=sys.stderr)
        self._began, self._detail = time.monotonic(), ""
        self._ended = threading.Event()
        threading.Thread(target=self._show, args=(self._ended,), daemon=True).start()

    def at(self, detail: str) -> None:
        """How far the step is, for the next sign of life."""
        self._detail = f", {detail}"

    def end(self) -> None:
        """The step has ended."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None
            print(f", {time.monotonic() - self._began:.1f} s", flush=True, file=sys.stderr)

    def note(self, notes: Iterable[str]) -> None:
        """Print what a user should know, one line each, after the step that found it."""
        for note in notes:
            self.end()
            print(f"note: {note}", flush=True, file=sys.stderr)

    @property
    def peak_bytes(self) -> int:
        """The most resident memory that the process has had."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _show(self, ended: threading.Event) -> None:
        while not ended.wait(_EVERY):
            seconds = time.monotonic() - self._began
            sign = f" … {seconds:.0f} s, {self.peak_bytes / _MIB:.0f} MiB{self._detail}"
            print(sign, end="", flush=True, file=sys.stderr)
