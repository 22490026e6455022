"""What travels on pytest's reports, from whoever judged a cell to whoever keeps its record."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from conformance.core.cells import Cell
from conformance.records.run import CellRecord

#: Attributes of a report: a cell's record as plain JSON, and the bundle of one that was judged on another machine.
RECORD, BUNDLE = "conformance_record", "conformance_bundle"
_CELL_ID = re.compile(r"\[(.+)\]")


def item_cell(item: pytest.Item) -> Cell | None:
    """The cell that a test judges."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def cell_named(nodeid: str, plan: Mapping[str, Cell]) -> Cell | None:
    """The cell of `plan`, which is by id, that a test's name speaks of."""
    found = _CELL_ID.search(nodeid)
    return plan.get(found.group(1)) if found else None


def properties(record: CellRecord) -> list[tuple[str, object]]:
    """What a test case of pytest's JUnit XML says of its cell."""
    return [("cell", record.id), ("verdict", record.verdict.value)]


def teardown(report: pytest.TestReport, record: CellRecord) -> pytest.TestReport:
    """What follows `report` where no teardown was reached: without it, the test case in the JUnit XML stays open."""
    return pytest.TestReport(
        report.nodeid, report.location, {}, "passed", None, "teardown", user_properties=properties(record)
    )
