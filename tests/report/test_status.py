"""The one status: how far a program gets, and what it violates besides."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import Level, Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord
from report.analysis.status import ABSENT, Reached, Violation, stage_statuses, status_of, variant_status
from report.analysis.variants import columns, variant_of
from tests.report.samples import cell, cells

pytestmark = pytest.mark.unit

_FIXTURE = cell("SEN-1", subject=None, backend=EAGER, mode=None)
_EXPORTED = [cell(clause, backend=EXPORTED) for clause in ("EXP-1", "PAR-1")]
_LOWERED = cell("LOW-1")
_RAISED = "export:UserError:Constraints violated (seq)!"
_DIFFERS = "execute:logits-differ"


def _fails(
    clause: str, stage: Stage | None, signature: str | None = None, backend: str = "xnnpack", mode: Mode = Mode.DECODE
) -> CellRecord:
    return cell(clause, Verdict.FAIL, stage, signature=signature, backend=backend, mode=mode)


def _known(clause: str, stage: Stage, signature: str, backend: str = "xnnpack") -> CellRecord:
    return cell(clause, Verdict.EXPECTED_FAILURE, stage, signature=signature, backend=backend)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ([cell("PAR-1"), cell("PAR-5", Verdict.NOT_APPLICABLE)], "✓ decodes correctly"),
        ([cell("PAR-1", Verdict.UNEXPECTED_PASS)], "✓ decodes correctly, ↑ 1 × unexpected-pass"),
        # A courtesy or a cost that is missing does not make a program that decodes look like one that does not.
        (
            [cell("PAR-1"), _known("EXP-9", Stage.EXPORT, "export:misconfiguration-traced", EXPORTED)],
            "✓ decodes correctly, not EXP-9",
        ),
        ([cell("PAR-1"), _fails("LOW-4", Stage.LOWER, "lower:stored-twice")], "✓ decodes correctly, ✗ not LOW-4"),
        ([cell("PAR-1"), _fails("RUN-2", Stage.EXECUTE, "execute:RuntimeError:x")], "✓ decodes correctly, ✗ not RUN-2"),
        ([cell("PAR-1"), cell("RUN-2", Verdict.NOT_RUN)], "✓ decodes correctly"),
        # Nothing executed it.
        ([cell("PAR-1", Verdict.NOT_APPLICABLE)], "◇ compiled only"),
        ([], "◇ compiled only"),
        ([_known("LOW-4", Stage.LOWER, "lower:stored-twice")], "◇ compiled only, not LOW-4"),
        # A stage that raised blocks, at the earliest one; a clause that is violated there does not.
        ([_fails("PAR-1", Stage.LOAD, "load:RuntimeError:error 0x14")], "✗ blocked at load"),
        ([_known("PAR-1", Stage.LOAD, "load:RuntimeError:error 0x14")], "≈ blocked at load"),
        (
            [_fails("PAR-1", Stage.EXECUTE, "execute:error:x"), _fails("PAR-3", Stage.EMIT, "emit:a")],
            "✗ blocked at emit",
        ),
        ([_fails("PAR-1", Stage.EXECUTE, _DIFFERS), cell("PAR-3")], "✗ wrong result, ✗ not PAR-1"),
        ([_known("PAR-1", Stage.EXECUTE, _DIFFERS)], "≈ wrong result, not PAR-1"),
        ([_fails("LOW-10", Stage.LOWER, "lower:cache-update-in-delegate:aten.x")], "✗ wrong result, ✗ not LOW-10"),
        # A known failure does not hide one that is not.
        ([_known("PAR-1", Stage.EXECUTE, _DIFFERS), cell("PAR-3", Verdict.CRASH)], "✗ blocked at execute"),
        ([cell("PAR-1", Verdict.TIMEOUT, Stage.LOWER), cell("PAR-3", Verdict.OUT_OF_MEMORY)], "✗ blocked at lower"),
        (
            [_known("PAR-1", Stage.LOWER, "lower:E:x"), cell("EXP-9", Verdict.CRASH, backend=EXPORTED)],
            "≈ blocked at lower, ✗ not EXP-9",
        ),
        # For a lowered program, what the exported one does is part of its export.
        ([_fails("PAR-1", Stage.EXPORT, _RAISED, backend=EXPORTED), cell("PAR-1")], "✗ blocked at export"),
        ([_fails("PAR-1", Stage.EXECUTE, "execute:E:x", backend=EXPORTED), cell("PAR-1")], "✗ blocked at export"),
        # A skip is never a pass.
        ([cell("PAR-1"), cell("PAR-3", Verdict.NOT_RUN)], "○ not judged"),
        ([cell("PAR-1"), cell("PAR-3", Verdict.HARNESS_ERROR)], "○ not judged, ? 1 × harness-error"),
        ([cell("PAR-7")], "○ not judged"),
        ([_fails("PAR-7", Stage.EXECUTE, "execute:refused")], "◇ compiled only, ✗ not PAR-7"),
        # An id of another contract counts as one that must hold.
        ([cell("PAR-99")], "✓ decodes correctly"),
        ([_fails("LOW-99", Stage.LOWER, "lower:a"), cell("PAR-1")], "✗ wrong result, ✗ not LOW-99"),
    ],
)
def test_status_of_a_lowered_program(own: list[CellRecord], text: str) -> None:
    assert str(status_of([_FIXTURE, *_EXPORTED, _LOWERED, *own])) == text


def test_status_of_an_exported_program_is_its_own() -> None:
    assert str(status_of([_FIXTURE, *_EXPORTED])) == "✓ decodes correctly"
    assert str(status_of([_FIXTURE, _EXPORTED[0]])) == "◇ compiled only"
    assert str(status_of([_FIXTURE, cell("EXP-9", backend=EXPORTED)])) == "○ not judged"
    wrong = _fails("PAR-1", Stage.EXECUTE, _DIFFERS, backend=EXPORTED)
    assert status_of([_FIXTURE, wrong]).reached is Reached.WRONG_RESULT


@pytest.mark.parametrize("clause", ["SEN-1", "PAR-8"])
def test_a_fixture_that_shows_no_fault_blocks(clause: str) -> None:
    wrong = cell(clause, Verdict.FAIL, Stage.EAGER, signature="eager:not-discriminating", subject=None, backend=EAGER)
    assert str(status_of([wrong, *_EXPORTED, _LOWERED, cell("PAR-1")])) == "✗ blocked at eager"
    known = cell("SEN-2", Verdict.EXPECTED_FAILURE, Stage.EAGER, signature="eager:a", subject=None, backend=EAGER)
    assert str(status_of([known, *_EXPORTED])) == "✓ decodes correctly, not SEN-2"


def test_an_oracle_that_is_known_to_be_wrong_is_replaced() -> None:
    known = cell("PAR-8", Verdict.EXPECTED_FAILURE, Stage.EAGER, signature="eager:a", subject=None, backend=EAGER)
    assert str(status_of([known, *_EXPORTED])) == "✓ decodes correctly, not PAR-8"


def test_what_no_clause_applies_to() -> None:
    nothing = [cell(clause, Verdict.NOT_APPLICABLE) for clause in ("LOW-1", "PAR-1")]
    assert str(status_of([_FIXTURE, *nothing])) == "– not applicable"
    assert status_of([]) == ABSENT
    assert variant_status(columns(_EXPORTED), variant_of(_LOWERED)) == ABSENT


def test_violations_have_their_level_and_are_known_if_all_their_cells_are() -> None:
    twice = [_known("PAR-1", Stage.EXECUTE, _DIFFERS), _fails("PAR-1", Stage.EXECUTE, _DIFFERS, backend=EXPORTED)]
    status = status_of([*twice, _known("EXP-9", Stage.EXPORT, "export:a", EXPORTED)])
    assert status.violations == (Violation("EXP-9", Level.SHOULD, True), Violation("PAR-1", Level.MUST, False))
    assert (status.glyph, status.known, status.unexpected) == ("✗", False, 1)


def test_problems_rank_by_whether_they_are_known_and_by_how_far_they_get() -> None:
    unexpected = [status_of([_fails("PAR-1", stage, f"{stage}:E:x"), _LOWERED]) for stage in (Stage.EXPORT, Stage.LOAD)]
    unexpected += [status_of([_fails("PAR-1", Stage.EXECUTE, _DIFFERS)])]
    unexpected += [status_of([cell("PAR-1"), _fails("LOW-4", Stage.LOWER, "lower:a")])]
    known = [
        status_of([_known("PAR-1", Stage.LOAD, "load:E:x")]),
        status_of([_known("PAR-1", Stage.EXECUTE, _DIFFERS)]),
    ]
    known += [status_of([_LOWERED]), status_of([cell("PAR-1")]), status_of([cell("PAR-1", Verdict.NOT_APPLICABLE)])]
    ranks = [status.rank for status in (*unexpected, *known, ABSENT)]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize(
    ("verdict", "gone_through"),
    [(Verdict.FAIL, True), (Verdict.EXPECTED_FAILURE, True), (Verdict.PASS, True), (Verdict.CRASH, False)],
)
def test_what_comes_before_the_stage_of_a_failure_was_gone_through(verdict: Verdict, gone_through: bool) -> None:
    found = cell("PAR-1", verdict, None if verdict is Verdict.PASS else Stage.EXECUTE)
    variant = variant_of(found)
    places = {place.stage: place for place in stage_statuses({variant: (found,)}, variant)}
    assert (places[Stage.LOAD].passed, places[Stage.BUILD].passed) == (gone_through, gone_through)
    assert not places[Stage.EXECUTE].passed


@settings(max_examples=200, deadline=None)
@given(st.lists(cells(), max_size=6, unique_by=lambda each: each.id), st.randoms(use_true_random=False))
def test_no_failure_looks_like_decoding(found: list[CellRecord], random: Random) -> None:
    alike = [each for each in found if each.mode in (None, Mode.DECODE)]
    status = status_of(alike)
    random.shuffle(alike)
    assert status_of(alike) == status
    must = [violation for violation in status.violations if violation.level is Level.MUST]
    # Where PAR-8 is a known failure, another oracle judges the programs.
    assert status.failed == any(not (violation.clause == "PAR-8" and violation.known) for violation in must)
    if status.reached is Reached.DECODES:
        assert any(each.verdict in {Verdict.PASS, Verdict.UNEXPECTED_PASS} for each in alike)
    assert sum(number for _, number in status.counts) == len(alike)


def test_the_mode_of_another_program_does_not_count() -> None:
    other = _fails("PAR-1", Stage.EXPORT, _RAISED, backend=EXPORTED, mode=Mode.DYNAMIC)
    found = columns([_FIXTURE, other, *_EXPORTED, _LOWERED, cell("PAR-1")])
    assert variant_status(found, variant_of(_LOWERED)).reached is Reached.DECODES
