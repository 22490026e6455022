"""The past of an architecture and of a variant: runs that are alike as one, and failures run by run."""

from __future__ import annotations

import pytest

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, ExpectedFailure, RunRecord
from report.analysis import analyse
from report.analysis.history import progress, stretches
from tests.report.samples import cell, run

pytestmark = pytest.mark.unit


def _wrong(name: str, verdict: Verdict = Verdict.FAIL) -> CellRecord:
    expected = ExpectedFailure("It is known.") if verdict is Verdict.EXPECTED_FAILURE else None
    signature = "execute:logits-differ"
    return cell("PAR-1", verdict, Stage.EXECUTE, architecture=name, signature=signature, expected=expected)


def _on(day: int, *cells: CellRecord, torch: str = "2.13.0", complete: bool = True) -> RunRecord:
    started = f"2026-11-{day:02}T10:00:00+00:00"
    return run(*cells, name=f"run {day}", started=started, torch=torch, complete=complete)


def test_runs_in_a_row_that_are_alike_share_a_row() -> None:
    past = [_on(day, cell(), torch=f"2.1{day}.0") for day in (1, 2, 3)]
    past += [_on(4, _wrong("llama")), _on(5, cell(architecture="phi")), _on(6, _wrong("llama"), complete=False)]
    past += [_on(7, cell(), torch="2.14.0")]
    report = analyse(past)
    found = stretches(report.past("llama"), "llama", [each.variant for each in report.architectures[0].covered])
    assert [len(each.runs) for each in found] == [1, 2, 3]
    assert [[status.label for status in each.statuses] for each in found] == [
        ["decodes correctly"],
        ["wrong result"],
        ["decodes correctly"],
    ]
    assert [(each.oldest.run.id, each.newest.run.id) for each in found[1:]] == [("run 4", "run 6"), ("run 1", "run 3")]
    assert [each.incomplete for each in found] == [0, 1, 0]
    assert dict(found[2].versions)["torch"] == "2.11.0 to 2.13.0"
    assert dict(found[0].versions)["torch"] == "2.14.0"


def test_failures_are_counted_run_by_run() -> None:
    varied = _wrong("llama+rope")
    past = [
        _on(1, cell(), cell(architecture="phi"), varied),
        _on(2, cell("LOW-1", backend="vulkan")),
        _on(
            3, _wrong("llama"), _wrong("phi", Verdict.EXPECTED_FAILURE), cell(architecture="x", verdict=Verdict.NOT_RUN)
        ),
    ]
    report = analyse(past)
    found = progress(report.runs, report.variants[0])
    assert [(each.decoding, each.broken, each.known, each.other) for each in found] == [(2, 0, 0, 0), (0, 1, 1, 1)]
    assert [(each.failing, each.total) for each in found] == [(0, 2), (2, 3)]
