"""The contract as data."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conformance.core.contract import CLAUSES
from conformance.core.paths import ROOT

pytestmark = pytest.mark.unit


def test_ids_are_unique() -> None:
    assert len({clause.id for clause in CLAUSES}) == len(CLAUSES)


def test_controller_needs_no_torch() -> None:
    """Options, plans and records are read before torch is loaded, so that a typo is answered at once."""
    code = "import conformance.conftest, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
