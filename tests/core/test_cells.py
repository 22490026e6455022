"""Which cells a run plans."""

from __future__ import annotations

import pytest

from conformance.core.cells import Selection, plan
from conformance.core.contract import CHECKED
from conformance.pipeline.backends import BACKENDS

pytestmark = pytest.mark.torch


def test_sampled_clauses_are_asked_of_the_sample_alone() -> None:
    sampled = {clause.id for clause in CHECKED if clause.sampled}
    assert sampled == {"LOW-8"}
    rows = ["llama", "mistral"]
    cells = list(plan(Selection(rows, ["reference"], [BACKENDS["xnnpack"].traits], CHECKED, sample={"llama"})))
    assert [cell.architecture for cell in cells if cell.clause in sampled] == ["llama"]
    all_of_them = list(plan(Selection(rows, ["reference"], [BACKENDS["xnnpack"].traits], CHECKED)))
    assert [cell.architecture for cell in all_of_them if cell.clause in sampled] == rows
    assert len(all_of_them) == len(cells) + 1
