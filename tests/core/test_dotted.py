"""Importing `package.module:name`, and the errors where that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conformance.core.dotted import imported, require_module
from tests.support.messages import refused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["no_such_package.module:NAME", "json.no_such_module:NAME"])
def test_a_module_that_is_not_there(name: str) -> None:
    for find in (require_module, imported):
        with refused("cannot-import"):
            find(name, "exporter")


def test_a_module_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing an exporter's takes seconds: a typo in another one is reported before."""
    (tmp_path / "slow_exporter.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    require_module("slow_exporter:NAME", "exporter")
    assert "slow_exporter" not in sys.modules
    with refused("cannot-import"):
        imported("slow_exporter:NAME", "exporter")


def test_a_file_is_named_as_a_module() -> None:
    with refused("unknown-name"):
        require_module("mine.py:export", "exporter")
