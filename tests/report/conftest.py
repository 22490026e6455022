"""What the report's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.harness import Report


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    """The command `python -m report`."""
    return Report(tmp_path, capsys)
