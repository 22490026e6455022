"""Two runs, cell by cell."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, RunRecord
from report.analysis.compare import Change, Margins, classify, compare
from tests.report.samples import cell, partition, run, runs

pytestmark = pytest.mark.unit

_PASS = cell()
_FAIL = cell(verdict=Verdict.FAIL, stage=Stage.EXECUTE, signature="execute:a")
_EARLIER = cell(verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:a")
_OTHERWISE = cell(verdict=Verdict.FAIL, stage=Stage.EXECUTE, signature="execute:b")
_KNOWN = cell(verdict=Verdict.EXPECTED_FAILURE, stage=Stage.EXECUTE, signature="execute:a")
_KNOWN_EARLIER = cell(verdict=Verdict.EXPECTED_FAILURE, stage=Stage.LOWER, signature="lower:a")
_STALE = cell(verdict=Verdict.UNEXPECTED_PASS)
_LOST = cell(verdict=Verdict.NOT_RUN)
_CRASH = cell(verdict=Verdict.CRASH)
_NOT_APPLICABLE = cell(verdict=Verdict.NOT_APPLICABLE)


@pytest.mark.parametrize(
    ("base", "head", "change", "regression"),
    [
        (_PASS, _PASS, None, False),
        (_PASS, _FAIL, Change.NEWLY_FAILING, True),
        (_PASS, _CRASH, Change.NEWLY_FAILING, True),
        (_PASS, None, Change.VANISHED, True),
        (_PASS, _LOST, Change.NOT_RUN, True),
        (_PASS, _NOT_APPLICABLE, Change.VANISHED, True),
        (_PASS, _STALE, Change.STALE, True),
        (_PASS, _KNOWN, Change.NEWLY_FAILING, True),
        (_KNOWN, _FAIL, Change.NEWLY_FAILING, True),
        (_KNOWN, _PASS, Change.FIXED, False),
        (_FAIL, _PASS, Change.FIXED, False),
        (_FAIL, _FAIL, None, False),
        (_FAIL, _EARLIER, Change.FAILS_EARLIER, True),
        (_EARLIER, _FAIL, Change.FAILS_LATER, False),
        (_KNOWN, _KNOWN_EARLIER, Change.FAILS_EARLIER, True),
        (_FAIL, _CRASH, Change.CHANGED_CAUSE, True),
        (_CRASH, _FAIL, Change.CHANGED_CAUSE, True),
        (_CRASH, _KNOWN, Change.CHANGED_CAUSE, False),
        (_FAIL, _OTHERWISE, Change.CHANGED_CAUSE, True),
        (_FAIL, _KNOWN, Change.CHANGED_CAUSE, False),
        (None, _PASS, Change.APPEARED, False),
        (None, _FAIL, Change.APPEARED, True),
        (None, _LOST, Change.NOT_RUN, True),
        (_NOT_APPLICABLE, _FAIL, Change.NEWLY_FAILING, True),
        (_LOST, None, None, False),
    ],
)
def test_change(base: CellRecord | None, head: CellRecord | None, change: Change | None, regression: bool) -> None:
    assert classify(base, head) is change
    comparison = compare(run(*filter(None, [base])), run(*filter(None, [head])))
    assert bool(comparison.regressions) is regression


@settings(max_examples=50, deadline=None)
@given(runs, runs)
def test_no_lost_or_failing_cell_is_dropped(base: RunRecord, head: RunRecord) -> None:
    comparison = compare(base, head)
    message = {each.cell.id for each in comparison.regressions}
    judged = {each.id for each in head.cells if each.verdict not in (Verdict.NOT_RUN, Verdict.NOT_APPLICABLE)}
    lost = {each.id for each in base.cells if each.verdict is Verdict.PASS} - judged
    assert lost <= message
    known = {each.id: each.verdict for each in base.cells}
    failing = {each.id for each in head.cells if each.verdict in (Verdict.FAIL, Verdict.CRASH)}
    assert {each for each in failing if known.get(each) is Verdict.PASS} <= message
    shown = [cell.id for _, _, found in comparison.groups for group in found for cell in group.cells]
    assert sorted(shown) == sorted(each.cell.id for each in comparison.differences)


def test_slower_and_less_delegated() -> None:
    def lowered(seconds: float, taken: float) -> CellRecord:
        return cell("LOW-1", metrics={"lower_s": seconds, "delegated_operators": taken, "undelegated_operators": 10.0})

    comparison = compare(run(lowered(10.0, 90.0)), run(lowered(20.0, 80.0)))
    assert [(each.base, each.head) for each in comparison.slower] == [(10.0, 20.0)]
    assert [round(each.head, 2) for each in comparison.less_delegated] == [0.89]
    assert comparison.worse
    same = compare(run(lowered(10.0, 90.0)), run(lowered(11.0, 90.0)))
    assert (same.slower, same.less_delegated, same.worse) == ((), (), False)
    wide = Margins(slower_by=2.5, delegation=0.05)
    assert not compare(run(lowered(10.0, 90.0)), run(lowered(20.0, 80.0)), wide).worse


def _lowered(taken: dict[str, int], left: dict[str, int], counted: float | None = None) -> CellRecord:
    metrics = {"delegated_operators": counted, "undelegated_operators": 10.0} if counted is not None else None
    return cell("LOW-1", partition=partition(taken, left, lower_s=2.0), metrics=metrics)


def test_shares_and_times_come_from_the_partition() -> None:
    base, head = _lowered({"a": 8, "b": 2}, {}), _lowered({"a": 8}, {"b": 2})
    (less,) = compare(run(base), run(head)).less_delegated
    assert (less.base, less.head, less.operators) == (1.0, 0.8, ("b",))
    slower = dataclasses.replace(head, partition=partition({"a": 8, "b": 2}, {}, lower_s=9.0))
    assert [each.head for each in compare(run(base), run(slower)).slower] == [9.0]
    assert not compare(run(base), run(base)).worse


def test_an_older_record_is_compared_by_what_both_counted() -> None:
    old = cell("LOW-1", metrics={"delegated_operators": 90.0, "undelegated_operators": 10.0})
    assert not compare(run(old), run(_lowered({"a": 8}, {"b": 2}, counted=90.0))).less_delegated
    (less,) = compare(run(old), run(_lowered({"a": 8}, {"b": 2}))).less_delegated
    assert (less.base, less.head, less.operators) == (0.9, 0.8, ())
