"""Calling `python -m report` without a process of its own, and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from conformance.records.run import RunRecord, write_run
from report.__main__ import main
from tests.support.messages import printed


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Report:
    """The command, in a directory of its own; records are named by their number."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capture = capture
        self._written = 0

    def __call__(self, *arguments: str | Path) -> Ended:
        """`python -m report` with these arguments."""
        self._capture.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse's way to refuse an option
            code = int(ended.code or 0)
        return Ended(code, *self._capture.readouterr())

    def record(self, run: RunRecord) -> Path:
        """A file with this run."""
        self._written += 1
        path = self.directory / f"record-{self._written}.json"
        write_run(path, run)
        return path

    def refused(self, code: str, *arguments: str | Path) -> str:
        """The one sentence with which a command refuses its input, whose code is `code`."""
        ended = self(*arguments)
        assert (ended.code, ended.out) == (2, ""), ended
        assert ended.err.count("\n") == 1, ended.err
        return printed(ended.err, code)
