"""The gate: what fails it, what is only reported, and what it refuses to compare."""

from __future__ import annotations

import dataclasses

import pytest

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import UNREACHED, CellRecord, Environment, RunRecord, Since
from tests.report.harness import Report
from tests.report.samples import cell, incremental, partition, run

pytestmark = pytest.mark.unit

_PASS = cell()
_FAIL = cell(verdict=Verdict.FAIL, stage=Stage.EXECUTE, signature="execute:a")
_EARLIER = cell(verdict=Verdict.FAIL, stage=Stage.EXPORT, signature="export:a")
_OTHERWISE = cell(verdict=Verdict.FAIL, stage=Stage.EXECUTE, signature="execute:b")
_NOT_APPLICABLE = cell(verdict=Verdict.NOT_APPLICABLE)
_UNREACHED = cell(verdict=Verdict.NOT_RUN, message=UNREACHED)
_LACKING = cell(verdict=Verdict.NOT_RUN, message="`pip install other`\nfirst")
#: Keeps a run from being one that judged nothing.
_OTHER = cell(architecture="gpt2")


def _lowered(seconds: float, taken: float) -> CellRecord:
    metrics = {"lower_s": seconds, "delegated_operators": taken, "undelegated_operators": 100 - taken}
    return cell("LOW-1", metrics=metrics)


def _partitioned(taken: int, left: int) -> CellRecord:
    return cell("LOW-1", partition=partition({"aten.linear.default": taken}, {"aten.linear.default": left}))


@pytest.mark.parametrize(
    ("base", "head", "code", "message"),
    [
        (_PASS, _PASS, 0, "PASS: 2 cells compared, none worse"),
        (_PASS, _FAIL, 1, "✗ newly failing: 1 cell"),
        (_FAIL, _EARLIER, 1, "✗ fails at an earlier stage: 1 cell"),
        (_FAIL, _OTHERWISE, 1, "✗ fails with another signature: 1 cell"),
        (_PASS, None, 1, "✗ vanished: 1 cell"),
        (_PASS, _NOT_APPLICABLE, 1, "✗ vanished: 1 cell"),
        (_PASS, _LACKING, 1, "✗ newly not run: 1 cell"),
        (_PASS, _LACKING, 1, "  reason: `pip install other` first"),
        (_LACKING, _LACKING, 0, "PASS: 1 cell compared, none worse; 1 not run in both"),
        (_NOT_APPLICABLE, _NOT_APPLICABLE, 0, "PASS: 1 cell compared, none worse\n"),
        (_LACKING, _PASS, 0, "· appeared: 1 cell"),
        (_lowered(10, 50), _lowered(20, 50), 1, "✗ slower to lower, by more than 1.5 times and 2 s: 1"),
        (_lowered(10, 50), _lowered(10, 49), 1, "✗ less delegated, by more than 0 % of the operators: 1"),
        (_partitioned(4, 0), _partitioned(3, 1), 1, "100.0% → 75.0%; no longer delegated: aten.linear.default"),
        (_FAIL, _FAIL, 0, "PASS: "),
        (_FAIL, _PASS, 0, "· fixed: 1 cell"),
        (_EARLIER, _FAIL, 0, "· fails at a later stage: 1 cell"),
        (None, _PASS, 0, "· appeared: 1 cell"),
        (None, _PASS, 0, "PASS: 1 cell compared, none worse\n"),
        (None, _FAIL, 1, "✗ appeared: 1 cell"),
    ],
)
def test_what_fails_the_gate(
    report: Report, base: CellRecord | None, head: CellRecord | None, code: int, message: str
) -> None:
    before, after = (run(_OTHER, *filter(None, [each]), name=name) for each, name in ((base, "base"), (head, "head")))
    ended = report("gate", report.record(before), report.record(after))
    assert ended.code == code, ended.out
    assert message in ended.out
    assert ended.out.splitlines()[-1].startswith("PASS: " if code == 0 else "FAIL: ")


def test_margins_are_chosen_and_stated(report: Report) -> None:
    before, after = report.record(run(_lowered(10, 50), name="base")), report.record(run(_lowered(20, 49)))
    ended = report("gate", before, after, "--slower-by", "3", "--less-delegated", "0.05")
    assert ended.code == 0
    closed = report("gate", before, after, "--slower-by", "1.2", "--slower-seconds", "1")
    assert "by more than 1.2 times and 1 s" in closed.out
    assert "slower" in closed.out.splitlines()[-1]
    assert report("gate", before, after, "--less-delegated", "-1").code == 2


def test_differing_versions_and_options_are_shown(report: Report) -> None:
    ended = report("gate", report.record(run(_PASS, name="base", torch="2.12.0")), report.record(run(_PASS)))
    assert ended.code == 0
    assert "version of torch: 2.12.0 → 2.13.0" in ended.out
    other = dataclasses.replace(run(_PASS, name="base"), environment=Environment("3.12.1", "macOS", "another", {}))
    lines = report("gate", report.record(other), report.record(run(_PASS))).out.splitlines()
    assert {"Python: 3.12.1 → 3.11.7", "platform: macOS → Linux", "CPU: another → a processor"} <= {*lines}
    made = report("gate", report.record(run(_PASS, name="base", commit="c" * 40 + "-dirty")), report.record(run(_PASS)))
    assert f"base: base, commit {'c' * 12}-dirty, " in made.out


@pytest.mark.parametrize(
    "unfit",
    [
        run(_PASS, complete=False),
        run(_OTHER, _UNREACHED),
        run(_LACKING),
        run(cell(verdict=Verdict.CRASH), cell("PAR-3", Verdict.HARNESS_ERROR)),
        run(_NOT_APPLICABLE),
        run(),
    ],
)
def test_a_run_that_judged_nothing_is_refused_on_either_side(report: Report, unfit: RunRecord) -> None:
    good, bad = report.record(run(_PASS)), report.record(unfit)
    for sides in ((good, bad), (bad, good)):
        assert report.refused("run-not-comparable", "gate", *sides).startswith(f"cannot compare {bad}: ")


def test_a_log_holds_no_control_sequence_and_no_command(report: Report) -> None:
    text = "\x1b[2J\n::add-mask::x\n##[add-path]/tmp"
    hostile = cell(architecture=text, subject=text, verdict=Verdict.FAIL, signature=text, message=text)
    ended = report("gate", report.record(run(_OTHER, name=text)), report.record(run(_OTHER, hostile, name=text)))
    assert "\x1b" not in ended.out
    assert "##[" not in ended.out
    assert not any(line.lstrip().startswith("::") for line in ended.out.splitlines())


def test_long_lists_say_how_much_they_leave_out(report: Report) -> None:
    names = [f"model{number}" for number in range(13)]
    before = run(*(cell(architecture=name) for name in names), name="base")
    after = run(*(cell(architecture=name, verdict=Verdict.FAIL) for name in names))
    ended = report("gate", report.record(before), report.record(after))
    assert "  and 3 more" in ended.out
    assert "FAIL: 13 newly failing" in ended.out


@pytest.mark.parametrize(
    ("judged", "left_out", "code", "message"),
    [
        ([_PASS], [_OTHER], 0, "not in the head: 1 cell that cannot have changed since the base"),
        ([_FAIL], [_OTHER], 1, "✗ newly failing: 1 cell"),
        ([cell("PAR-9")], [_OTHER], 1, "✗ vanished: 1 cell"),
        ([], [_OTHER, _PASS], 0, "\nPASS: nothing to compare; 2 cells cannot have changed since the base\n"),
        ([_NOT_APPLICABLE], [_OTHER], 1, "✗ vanished: 1 cell"),
        (
            [cell("PAR-9", Verdict.NOT_APPLICABLE)],
            [_OTHER, _PASS],
            0,
            "\nPASS: nothing to compare; 2 cells cannot have changed",
        ),
        # Interrupted while it collected the checks.
        ([], [_OTHER], 1, "✗ vanished: 1 cell"),
    ],
)
def test_what_was_left_out_has_not_vanished(
    report: Report, judged: list[CellRecord], left_out: list[CellRecord], code: int, message: str
) -> None:
    head = incremental(*judged, left_out=tuple(left_out))
    ended = report("gate", report.record(run(_OTHER, _PASS, name="base")), report.record(head))
    assert ended.code == code, ended
    assert message in ended.out


@pytest.mark.parametrize("judged", [[], [_PASS]])
def test_a_run_since_another_is_compared_with_that_alone(report: Report, judged: list[CellRecord]) -> None:
    base, head = run(_OTHER, name="base"), incremental(*judged, left_out=(_OTHER,), since="other")
    report.refused("runs-differ", "gate", report.record(base), report.record(head))


_UNFINISHED = run(_PASS, complete=False)
_WHOLE = run(_PASS)
#: It has ended, and pytest had left out planned cells, by -k.
_NARROWED = dataclasses.replace(_WHOLE, run=dataclasses.replace(_WHOLE.run, complete=False))


@pytest.mark.parametrize(
    "head",
    [
        incremental(left_out=()),
        incremental(_UNREACHED, left_out=(_OTHER,)),
        incremental(_LACKING, left_out=(_OTHER,)),
        incremental(cell(verdict=Verdict.CRASH), cell("PAR-3", Verdict.HARNESS_ERROR), left_out=(_OTHER,)),
        dataclasses.replace(_UNFINISHED, run=dataclasses.replace(_UNFINISHED.run, since=Since("base", (_OTHER.id,)))),
    ],
)
def test_a_run_since_another_that_judged_nothing_for_another_reason_is_refused(report: Report, head: RunRecord) -> None:
    report.refused("run-not-comparable", "gate", report.record(run(_OTHER, name="base")), report.record(head))


@pytest.mark.parametrize("head", [incremental(_PASS, left_out=(_OTHER,), missing=1), _NARROWED])
def test_a_run_that_lacks_planned_cells_is_refused(report: Report, head: RunRecord) -> None:
    base = report.record(run(_PASS, _OTHER, name="base"))
    report.refused("run-not-comparable", "gate", base, report.record(head))
    assert report("verdict", report.record(head)).code == 1


def test_a_run_that_judged_nothing_is_not_a_base(report: Report) -> None:
    head, base = report.record(run(_OTHER, name="later")), report.record(incremental(left_out=(_OTHER,)))
    report.refused("run-not-comparable", "gate", base, head)


def test_only_clauses_that_must_hold_may_close_the_gate(report: Report) -> None:
    base = report.record(run(cell("LOW-4"), cell("PAR-1"), name="base"))
    courtesy = report.record(run(cell("LOW-4", Verdict.FAIL, Stage.LOWER), cell("PAR-1")))
    ended = report("gate", base, courtesy, "--fail-on", "must")
    assert ended.code == 0
    assert "✗ newly failing: 1 cell" in ended.out
    last = ended.out.splitlines()[-1]
    assert last == "PASS: 2 cells compared, none worse by a clause that must hold (1 newly failing)"
    assert report("gate", base, courtesy).code == 1
    wrong = report.record(run(cell("LOW-4"), cell("PAR-1", Verdict.FAIL, Stage.EXECUTE)))
    assert report("gate", base, wrong, "--fail-on", "must").code == 1
