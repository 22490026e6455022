"""Clauses: who violates each, rows of architectures that are alike, and ids in a row as one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.contract import CLAUSES, Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, ExpectedFailure, RunRecord
from report.analysis import analyse
from report.analysis.clauses import alike, clause_ranges
from tests.report.samples import cell, run, runs

pytestmark = pytest.mark.unit


def _stored_twice(name: str, mode: Mode = Mode.DECODE) -> CellRecord:
    return cell(
        "LOW-4",
        Verdict.EXPECTED_FAILURE,
        Stage.LOWER,
        architecture=name,
        signature="lower:stored-twice",
        expected=ExpectedFailure("Tied weights are stored twice."),
        mode=mode,
    )


@pytest.mark.parametrize(
    ("clauses", "text"),
    [
        (["LOW-1", "LOW-2", "LOW-3", "LOW-5"], ["LOW-1…3", "LOW-5"]),
        (["PAR-2", "LOW-2", "LOW-1"], ["LOW-1", "LOW-2", "PAR-2"]),
        (["LOW-9", "LOW-10", "LOW-11", "LOW-9"], ["LOW-9…11"]),
        (["a-1", "a-2", "a-x", "b"], ["a-1", "a-2", "a-x", "b"]),
        ([], []),
    ],
)
def test_three_and_more_in_a_row_are_one(clauses: list[str], text: list[str]) -> None:
    assert list(clause_ranges(clauses)) == text


@given(st.lists(st.sampled_from([clause.id for clause in CLAUSES]) | st.text(max_size=8)))
def test_no_clause_is_lost_in_a_range(clauses: list[str]) -> None:
    found: list[str] = []
    for part in clause_ranges(clauses):
        first, between, last = part.partition("…")
        chapter, _, number = first.rpartition("-")
        ranged = part not in clauses and between
        found += [f"{chapter}-{each}" for each in range(int(number), int(last) + 1)] if ranged else [part]
    assert sorted(found) == sorted(set(clauses))


def test_a_clause_names_who_violates_it_by_cause() -> None:
    other = cell("LOW-4", Verdict.FAIL, Stage.LOWER, architecture="phi", signature="lower:stored-twice")
    far = cell("LOW-4", Verdict.NOT_APPLICABLE, architecture="bamba", message="nothing is tied")
    cells = [_stored_twice("gpt2"), _stored_twice("llama"), other, far, cell("PAR-1")]
    found = {each.id: each for each in analyse([run(*cells)]).clauses}
    assert set(found) == {clause.id for clause in CLAUSES}
    status = found["LOW-4"]
    assert (status.violated_by, status.judged_on) == (("phi", "gpt2", "llama"), 3)
    assert [cause.known for cause in status.causes] == [False, True]
    assert [(each.reason, each.architectures) for each in status.inapplicable] == [("nothing is tied", ("bamba",))]
    assert found["PAR-1"].violated_by == ()
    assert found["PAR-2"].cells == ()


def test_what_passes_or_was_not_judged_violates_nothing() -> None:
    cells = [
        cell("PAR-1", Verdict.UNEXPECTED_PASS, expected=ExpectedFailure("It was broken.")),
        cell("PAR-1", Verdict.HARNESS_ERROR, architecture="phi"),
        cell("PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXECUTE, architecture="gpt2", expected=ExpectedFailure("Known.")),
        cell("PAR-3", Verdict.NOT_RUN),
    ]
    found = {each.id: each for each in analyse([run(*cells)]).clauses}
    assert (found["PAR-1"].violated_by, found["PAR-1"].known) == (("gpt2",), True)
    assert (found["PAR-3"].violated_by, found["PAR-3"].judged_on) == ((), 0)


def test_architectures_that_are_alike_share_a_row() -> None:
    both = [_stored_twice(name, mode) for name in ("gpt2", "llama") for mode in Mode]
    first, second = alike([*both, _stored_twice("phi")])
    assert first.architectures == ("gpt2", "llama")
    assert [variant.mode for variant in first.by_variant] == ["decode", "dynamic"]
    assert (second.architectures, len(second.by_variant)) == (("phi",), 1)


@settings(max_examples=60, deadline=None)
@given(runs)
def test_every_cell_of_any_run_is_at_its_clause(found: RunRecord) -> None:
    report = analyse([found])
    assert sorted(each.id for status in report.clauses for each in status.cells) == sorted(c.id for c in found.cells)
    failing = [each.id for status in report.clauses for cause in status.causes for each in cause.cells]
    assert sorted(failing) == sorted(each.id for cause in report.causes for each in cause.cells)
    names = [name for each in alike(found.cells) for name in each.architectures]
    assert sorted(names) == sorted({each.architecture for each in found.cells})
