"""The overall result of one run: the truth table of its exit code."""

from __future__ import annotations

import pytest

from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord
from tests.report.harness import Report
from tests.report.samples import cell, run

pytestmark = pytest.mark.unit

_OTHER = cell(architecture="gpt2")


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PASS, 0),
        (Verdict.EXPECTED_FAILURE, 0),
        (Verdict.NOT_APPLICABLE, 0),
        (Verdict.FAIL, 1),
        (Verdict.UNEXPECTED_PASS, 1),
        (Verdict.NOT_RUN, 1),
        (Verdict.CRASH, 1),
        (Verdict.TIMEOUT, 1),
        (Verdict.OUT_OF_MEMORY, 1),
        (Verdict.HARNESS_ERROR, 1),
    ],
)
def test_one_verdict_among_good_ones(report: Report, verdict: Verdict, code: int) -> None:
    ended = report("verdict", report.record(run(_OTHER, cell(verdict=verdict))))
    assert ended.code == code
    assert ended.out.startswith("✓" if code == 0 else "✗")
    assert f"1 {verdict}" in ended.out or verdict is Verdict.PASS


@pytest.mark.parametrize("cells", [(), (cell(verdict=Verdict.NOT_APPLICABLE),)])
def test_nothing_judged_is_not_good(report: Report, cells: tuple[CellRecord, ...]) -> None:
    ended = report("verdict", report.record(run(*cells)))
    assert ended.code == 1
    assert "nothing was judged" in ended.out


def test_a_partial_run_is_not_good(report: Report) -> None:
    ended = report("verdict", report.record(run(_OTHER, complete=False)))
    assert ended.code == 1
    assert "the run is not complete" in ended.out


def test_a_file_that_is_not_a_record_is_refused(report: Report) -> None:
    path = report.directory / "run.json"
    path.write_text("{}")
    report.refused("invalid-record", "verdict", path)
