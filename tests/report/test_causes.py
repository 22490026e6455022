"""One grouping of failures: by signature and reason, by frame, and by the operator that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from conformance.core.contract import Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, ExpectedFailure, RunRecord
from report.analysis.causes import causes, unrun
from report.analysis.verdicts import QUIET
from tests.report.samples import cell, run, runs

pytestmark = pytest.mark.unit

_SIGNATURE = "export:UserError:Constraints violated (seq)!"


def _known(name: str, reason: str) -> CellRecord:
    expected = ExpectedFailure(reason, "https://example.org/1")
    return cell(
        "PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXPORT, architecture=name, signature=_SIGNATURE, expected=expected
    )


def _differs(clause: str, *lines: str, name: str = "llama", mode: Mode = Mode.DECODE) -> CellRecord:
    message = "\n".join([f"{clause} failed at stage execute: here", "  observed  logits that differ by 4e-04", *lines])
    return cell(
        clause,
        Verdict.FAIL,
        Stage.EXECUTE,
        signature="execute:logits-differ",
        message=message,
        architecture=name,
        mode=mode,
    )


def test_one_signature_may_have_several_reasons() -> None:
    two = [_known("dbrx", "Experts loop. More."), _known("git", "Masks are built by e.g. 5.1 `of` data. More.")]
    unknown = cell("PAR-1", Verdict.FAIL, Stage.EXPORT, signature=_SIGNATURE, message="x\n  observed  E: no. Help: y")
    otherwise = cell(
        "PAR-3", Verdict.FAIL, Stage.EXPORT, signature=_SIGNATURE, expected=two[0].expected, message="no more"
    )
    found = causes([*two, unknown, otherwise])
    assert [cause.title for cause in found] == ["E: no", "Experts loop", "Masks are built by e.g. 5.1 `of` data"]
    assert [cause.known for cause in found] == [False, True, True]
    assert [len(cause.cells) for cause in found] == [2, 1, 1]
    assert len({cause.page for cause in found}) == 3
    assert found[1].links == ("https://example.org/1",)
    assert found[0].links == ()


def test_a_signature_that_was_cut_off_is_marked() -> None:
    def is_cut(length: int) -> bool:
        signature = f"export:UserError:a: {'b' * (length - 3)}"
        return causes([cell(verdict=Verdict.FAIL, stage=Stage.EXPORT, signature=signature)])[0].cut

    assert [is_cut(length) for length in (88, 89, 90)] == [False, True, True]


def test_crashes_go_by_their_innermost_frame() -> None:
    def died(name: str, frame: str, verdict: Verdict = Verdict.CRASH) -> CellRecord:
        trace = f"worker process exited with signal 11 at stage lower; traceback: {frame} < other.py:3 above"
        return cell("LOW-1", verdict, Stage.LOWER, architecture=name, message=trace)

    bare = "worker process exited with signal {} at stage lower; no traceback available"
    found = causes(
        [
            died("a", "lower.py:12 fold"),
            died("b", "lower.py:12 fold"),
            died("c", "pass.py:7 <module>"),
            died("d", "lower.py:12 fold", Verdict.TIMEOUT),
            *(cell(verdict=Verdict.CRASH, architecture=f"e{n}", message=bare.format(n)) for n in (6, 11)),
        ]
    )
    shown = {cause.title: cause.architectures for cause in found}
    assert shown == {
        "crash in lower.py:12 fold": ("a", "b"),
        "crash in pass.py:7 <module>": ("c",),
        "timeout in lower.py:12 fold": ("d",),
        "worker process exited with signal 6 at stage lower": ("e6", "e11"),
    }


def test_cells_that_a_timeout_left_no_time_belong_to_it() -> None:
    hung = cell("LOW-1", Verdict.TIMEOUT, Stage.LOWER, message="exceeded the limit; traceback: a.py:1 loop < b.py:2 c")
    after = cell("PAR-1", Verdict.TIMEOUT, message="llama used up the 600 s limit for xnnpack decode before this cell")
    (cause,) = causes([after, hung])
    assert cause.place == "a.py:1 loop"


def test_wrong_numbers_go_by_the_operator_that_localisation_names() -> None:
    operator = "  operator  XnnpackBackend delegate {} (aten.gelu.default) in call 1: 2, expected 1; 3e+04 times"
    found = causes(
        [
            _differs("PAR-1", operator.format(3)),
            _differs("PAR-3", "  diverged  after eager wrapper, which is right; further as in PAR-1"),
            _differs("PAR-1", operator.format(7), name="phi"),
            _differs("PAR-1", "  operator  aten::mul in call 0: 2, expected 1; 1e+02 times", name="gpt2"),
            _differs("PAR-1", "  operator  none is off by itself, of 7 compared (1 have no counterpart)", name="qwen3"),
            _differs("PAR-3", "  diverged  further as in PAR-1", mode=Mode.DYNAMIC),
        ]
    )
    shown = {cause.title: [each.id for each in cause.cells] for cause in found}
    assert shown == {
        "logits differ, first in XnnpackBackend delegate (aten.gelu.default) (execute)": [
            "llama/reference/xnnpack/decode/PAR-1",
            "llama/reference/xnnpack/decode/PAR-3",
            "phi/reference/xnnpack/decode/PAR-1",
        ],
        "logits differ, first in aten::mul (execute)": ["gpt2/reference/xnnpack/decode/PAR-1"],
        "logits differ (execute)": [
            "qwen3/reference/xnnpack/decode/PAR-1",
            "llama/reference/xnnpack/dynamic/PAR-3",
        ],
    }


def test_an_unexpected_pass_is_named_by_the_reason_that_no_longer_holds() -> None:
    (cause,) = causes([cell(verdict=Verdict.UNEXPECTED_PASS, expected=ExpectedFailure("It was broken."))])
    assert (cause.title, cause.known) == ("It was broken", False)


def test_what_was_not_run_goes_by_its_message_the_largest_group_first() -> None:
    lost = [cell(clause, Verdict.NOT_RUN, message=message) for clause, message in (("A", "x"), ("B", "y"), ("C", "y"))]
    assert [(group.reason, len(group.cells)) for group in unrun([cell(), *lost])] == [("y", 2), ("x", 1)]


@settings(max_examples=40, deadline=None)
@given(runs)
def test_every_failure_of_any_run_is_in_one_cause(found: RunRecord) -> None:
    grouped = [each.id for cause in causes(found.cells) for each in cause.cells]
    grouped += [each.id for group in unrun(found.cells) for each in group.cells]
    assert sorted(grouped) == sorted(each.id for each in found.cells if each.verdict not in QUIET)
    pages = [cause.page for cause in causes(found.cells)]
    assert len(set(pages)) == len(pages)
    for cause in causes(found.cells):
        assert cause.title.isprintable()
        assert cause.title
        assert sorted(each.id for part in cause.parts.values() for each in part.cells) == sorted(
            each.id for each in cause.cells
        )
    assert causes(run().cells) == ()
