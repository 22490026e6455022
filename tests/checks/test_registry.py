"""The checks, by the clause that each tests."""

from __future__ import annotations

import pytest

from conformance.checks.registry import checks
from conformance.core.contract import CHECKED

pytestmark = pytest.mark.torch


def test_clauses_with_levels_are_the_ones_with_checks() -> None:
    assert set(checks()) == {clause.id for clause in CHECKED}
