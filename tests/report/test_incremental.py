"""A run with --since is complete if the cells that it has were run: what it left out cannot have changed."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord
from report.analysis import analyse
from report.analysis.compare import compare
from report.analysis.status import Reached
from report.annotations import annotate
from report.issues import OpenIssue, issues, plan
from report.site import Settings, build
from report.status_page import status_page
from report.summary import summary
from report.trends import history_points
from tests.report.harness import Report
from tests.report.samples import cell, incremental, run
from tests.support.matrix import small_matrix

pytestmark = pytest.mark.unit

_OTHERS = (cell(architecture="gpt2"), cell(architecture="phi"))
_BASE = run(cell(), *_OTHERS, name="base", started="2026-11-01T10:00:00+00:00")
_WHOLE = (incremental(cell(), left_out=_OTHERS), incremental(left_out=(cell(), *_OTHERS)))
_LACKING = incremental(cell(verdict=Verdict.NOT_RUN), left_out=_OTHERS)
_UNFINISHED = dataclasses.replace(_WHOLE[0], run=dataclasses.replace(_WHOLE[0].run, finished=None))
_PARTIAL = (_LACKING, _UNFINISHED, incremental(cell(), left_out=()))


def _note(head: RunRecord) -> str:
    number = len(head.left_out)
    return f"{number} cells were not run again: nothing that they depend on has changed since the base."


def test_one_cell() -> None:
    page = summary(incremental(left_out=_OTHERS[:1]))
    assert "\n1 cell was not run again: nothing that it depends on has changed since the base.\n" in page


@pytest.mark.parametrize("head", _WHOLE)
def test_a_run_that_left_out_cells_is_good(report: Report, head: RunRecord) -> None:
    ended = report("verdict", report.record(head))
    assert ended.code == 0
    assert ended.out.startswith("✓ ExecuTorch conformance: no unexpected results\n")
    assert ended.out.endswith(f"\n{_note(head)}\n")
    pages = [
        summary(head),
        summary(head, compare(_BASE, head)),
        annotate(head, compare(_BASE, head)),
        status_page([_BASE, head]),
    ]
    for page in pages:
        assert _note(head) in page
        assert "not complete" not in page
        assert "stopped early" not in page
    assert pages[1].startswith("## ✓ ExecuTorch conformance: no regressions, no unexpected results\n")
    assert pages[2].startswith("::notice ")


@pytest.mark.parametrize("head", _WHOLE)
def test_the_site_does_not_warn_of_it(head: RunRecord) -> None:
    site = build(analyse([_BASE, head], small_matrix()), Settings(datetime(2026, 11, 24, tzinfo=UTC)))
    for address in ("index.html", "compare.html"):
        assert f'<p class="note">{_note(head)}</p>' in site[address]
    assert not [address for address, text in site.items() if "not complete" in text]
    assert "<dt>Complete</dt><dd>yes</dd>" in site["index.html"]
    assert "Gate: PASS: " in site["compare.html"]


@pytest.mark.parametrize("head", _WHOLE)
def test_its_parts_merge(report: Report, head: RunRecord) -> None:
    ended = report("merge", report.record(head), "-o", report.directory / "merged.json")
    assert "not complete" not in ended.out


def test_it_closes_an_issue_of_cells_that_it_judged() -> None:
    failing = run(cell(verdict=Verdict.FAIL))
    (opening,) = plan(issues(failing, "main"), "main", [], failing)
    planned = [plan({}, "main", [OpenIssue(7, "", opening.text)], head) for head in _WHOLE]
    assert [[action.arguments[1] for action in actions] for actions in planned] == [["close"], []]


@pytest.mark.parametrize("head", _PARTIAL)
def test_a_run_that_lacks_others_is_not_good(report: Report, head: RunRecord) -> None:
    ended = report("verdict", report.record(head))
    assert ended.code == 1
    assert "the run is not complete" in ended.out
    assert "> [!WARNING]\n> **This run is not complete.**" in summary(head)
    assert annotate(head).startswith("::error ")


_PASSING, _DIFFERING = cell(), cell("PAR-4", Verdict.EXPECTED_FAILURE)


def test_a_status_counts_what_was_left_out() -> None:
    """What the base says of it, or that it was not judged; and not what is judged again alone."""
    base = run(cell(verdict=Verdict.FAIL), _DIFFERING, name="base", started="2026-11-01T10:00:00+00:00")
    head = incremental(_PASSING, left_out=(_DIFFERING,))
    (alone,) = (state.status for each in analyse([head]).architectures for state in each.covered)
    assert (alone.reached, alone.unexpected) == (Reached.NOT_JUDGED, 0)
    (compared,) = (state.status for each in analyse([base, head]).architectures for state in each.covered)
    assert (compared.reached, [each.clause for each in compared.violations]) == (Reached.WRONG_RESULT, ["PAR-4"])
    for page in (summary(head), summary(head, compare(base, head))):
        assert "0 of 1" in page


def test_a_status_of_the_base_may_be_good() -> None:
    base = run(cell(verdict=Verdict.FAIL), cell("PAR-4"), name="base", started="2026-11-01T10:00:00+00:00")
    head = incremental(_PASSING, left_out=(cell("PAR-4"),))
    assert "1 of 1" in summary(head, compare(base, head))
    assert [point.status.reached for point in history_points(head)] == [Reached.NOT_JUDGED]
