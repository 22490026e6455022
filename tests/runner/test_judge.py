"""The truth table: what a cell's verdict is, given how its check ended and what was expected."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import (
    ChildDiedError,
    ClauseViolationError,
    NotApplicableError,
    NotRunError,
    Stage,
    StageError,
    Verdict,
)
from conformance.failures.outcome import Outcome
from conformance.matrix.schema import Expectation
from conformance.records.run import CellRecord, cell_from_json, cell_to_json, load_run, write_run
from conformance.runner.judge import judge
from tests.report.samples import run

pytestmark = pytest.mark.unit

_CELL = Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1")
_EXPECTED = Expectation("cause", "execute:logits-differ", "a reason that is long enough", at_most=0.01)
_OPTIONAL = Expectation("cause", "execute:logits-differ", "a reason that is long enough", required=False)


def _differs(by: float) -> ClauseViolationError:
    return ClauseViolationError(
        Stage.EXECUTE, "logits-differ", observed=1, expected=2, script="[3] at 0", relative_error=by
    )


def _judged(error: BaseException | None, expectation: Expectation | None) -> CellRecord:
    return judge(_CELL, Outcome(error), expectation, versions={"torch": "2.13.0"}, metrics={}, duration_s=0.1)


@pytest.mark.parametrize(
    ("error", "expectation", "verdict"),
    [
        (None, None, Verdict.PASS),
        (NotRunError("install it"), None, Verdict.NOT_RUN),
        (NotRunError("install it"), _EXPECTED, Verdict.NOT_RUN),
        (None, _EXPECTED, Verdict.UNEXPECTED_PASS),
        (_differs(0.001), None, Verdict.FAIL),
        (_differs(0.001), _EXPECTED, Verdict.EXPECTED_FAILURE),
        (_differs(0.5), _EXPECTED, Verdict.FAIL),
        (None, _OPTIONAL, Verdict.PASS),
        (_differs(0.5), _OPTIONAL, Verdict.EXPECTED_FAILURE),
        (StageError(Stage.LOAD, RuntimeError("failed with error 0x14")), _OPTIONAL, Verdict.FAIL),
        (StageError(Stage.LOAD, RuntimeError("failed with error 0x14")), _EXPECTED, Verdict.FAIL),
        (ChildDiedError(Verdict.CRASH, Stage.EXECUTE, "died"), None, Verdict.CRASH),
        (ChildDiedError(Verdict.TIMEOUT, Stage.EXECUTE, "was over"), _EXPECTED, Verdict.TIMEOUT),
        (NotApplicableError("no window"), None, Verdict.NOT_APPLICABLE),
        (ZeroDivisionError("our own"), None, Verdict.HARNESS_ERROR),
        (ZeroDivisionError("our own"), _EXPECTED, Verdict.HARNESS_ERROR),
    ],
)
def test_truth_table(error: BaseException | None, expectation: Expectation | None, verdict: Verdict) -> None:
    assert _judged(error, expectation).verdict is verdict


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metric_that_is_not_finite_costs_its_own_cell_alone(value: float, tmp_path: Path) -> None:
    metrics = {"tolerance": 1e-4, "max_relative_error": value}
    passed, failed = (
        judge(_CELL, Outcome(error), None, versions={}, metrics=metrics, duration_s=0.1)
        for error in (None, _differs(0.5))
    )
    assert passed.verdict is Verdict.HARNESS_ERROR
    assert f"max_relative_error is {value}" in (passed.message or "")
    assert failed.verdict is Verdict.FAIL
    assert passed.metrics == failed.metrics == {"tolerance": 1e-4}
    path = tmp_path / "run.json"
    write_run(path, run(passed, failed))
    assert load_run(path).cells == (passed, failed)


def test_failure_explains_itself() -> None:
    message = _judged(_differs(0.001), None).message or ""
    for part in ("PAR-1", "stage execute", "llama", "torch 2.13.0", "observed  1", "expected  2", "[3] at 0"):
        assert part in message
    assert "conformance run --arch llama --clause PAR-1 --exporter reference --backend xnnpack --mode decode" in message


def test_replay_repeats_what_was_explored() -> None:
    outcome = Outcome(_differs(0.001))
    record = judge(_CELL, outcome, None, versions={}, metrics={}, duration_s=0, exploring="--hypothesis-seed 7")
    assert record.replay.endswith("--mode decode --hypothesis-seed 7 --output build/conformance/replay.json")
    assert record.replay in (record.message or "")


def test_runtime_error_code_is_in_the_signature() -> None:
    error = StageError(Stage.EXECUTE, RuntimeError("method->set_inputs() failed with error 0x10"))
    assert error.signature == "execute:RuntimeError:error 0x10"


def test_signature_has_no_numbers() -> None:
    one, other = (StageError(Stage.LOWER, ValueError(f"node {n} at 0x{n}f")) for n in (12, 345))
    assert one.signature == other.signature


def test_record_survives_the_way_between_processes() -> None:
    record = _judged(_differs(0.001), _EXPECTED)
    assert cell_from_json(cell_to_json(record)) == record


def test_message_does_not_say_where_the_environment_stands() -> None:
    error = StageError(Stage.EXPORT, RuntimeError("in file `/home/me/.tox/x/lib/python3.11/site-packages/torch/a.py`"))
    assert "in file `torch/a.py`" in (_judged(error, None).message or "")
