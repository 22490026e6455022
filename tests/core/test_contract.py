"""The contract as data, and what is generated from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conformance.cli.backends_page import backends_page
from conformance.core.contract import CLAUSES, contract_page
from conformance.core.paths import ROOT
from conformance.records.run import SCHEMA_PATH, schema_text

pytestmark = pytest.mark.unit


def test_ids_are_unique() -> None:
    assert len({clause.id for clause in CLAUSES}) == len(CLAUSES)


def test_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "contract.md").read_text(encoding="utf-8") == contract_page()


def test_backends_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "backends.md").read_text(encoding="utf-8") == backends_page()


def test_schema_is_up_to_date() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text()


def test_controller_needs_no_torch() -> None:
    """Options, plans and records are read before torch is loaded, so that a typo is answered at once."""
    code = "import conformance.conftest, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
