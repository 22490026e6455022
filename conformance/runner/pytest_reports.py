"""Cells' records on pytest's reports, on their way from the process that judged to the one that keeps the record."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from conformance.core.cells import Cell
from conformance.records.run import CellRecord

#: Attributes of a report: a cell's record as plain JSON, and its bundle if it was judged on another machine.
RECORD, BUNDLE = "conformance_record", "conformance_bundle"
_CELL_ID = re.compile(r"\[(.+)\]")


def item_cell(item: pytest.Item) -> Cell | None:
    """The cell that a test judges; None if it is not about a cell."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def cell_named(nodeid: str, plan: Mapping[str, Cell]) -> Cell | None:
    """The cell of `plan`, which is by id, whose id is in a test's name; None if there is none."""
    match = _CELL_ID.search(nodeid)
    return plan.get(match.group(1)) if match else None


def properties(record: CellRecord) -> list[tuple[str, object]]:
    """The properties of a cell's test case in pytest's JUnit XML."""
    return [("cell", record.id), ("verdict", record.verdict.value)]


def teardown(report: pytest.TestReport, record: CellRecord) -> pytest.TestReport:
    """A passed teardown for a test that reached none: without it, its test case in the JUnit XML stays open."""
    return pytest.TestReport(
        report.nodeid, report.location, {}, "passed", None, "teardown", user_properties=properties(record)
    )
