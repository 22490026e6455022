"""What the report's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.harness import Report
from tests.support.matrix import small_matrix


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Report:
    """The command `python -m report`, with a small matrix: the real one takes longer to read than a site to build."""
    monkeypatch.setattr("conformance.matrix.schema.load_matrix", small_matrix)
    return Report(tmp_path, capsys)
