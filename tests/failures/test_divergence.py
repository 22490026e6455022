"""Where a program first goes wrong: located for faults at every step, and never at the cost of the verdict."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from conformance.checks.case import Case, tensors
from conformance.checks.registry import checks
from conformance.core.cells import EXPORTED, Cell, Program
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, Stage, Verdict
from conformance.decoding.scripts import token_by_token
from conformance.decoding.sessions import ExportedModule
from conformance.exporters.resolve import Exporter, resolve
from conformance.failures import localize as locating
from conformance.failures.divergence import Divergence, Step
from conformance.failures.localize import as_json, locate
from conformance.failures.operator_diff import compare_operators
from conformance.failures.outcome import Outcome
from conformance.pipeline.backends import PORTABLE, Backend
from conformance.pipeline.builder import Builder
from conformance.runner.judge import judge
from tests.faults import lowerings, programs
from tests.support.harness import one_layer

pytestmark = pytest.mark.torch


@functools.cache
def _failed(
    architecture: str,
    backend: Backend | None = None,
    export: Callable[..., Any] | None = None,
    clause: str = "PAR-1",
) -> tuple[Case, ClauseViolationError]:
    """A cell whose check has failed, of the reference unless another exporter is given."""
    exporter = Exporter("faulty", export) if export else resolve("reference")
    cell = Cell(architecture, exporter.name, backend.name if backend else EXPORTED, Mode.DECODE, clause)
    backends = {backend.name: backend} if backend else {}
    case = Case(cell, Builder({exporter.name: exporter}, backends, one_layer), examples=5)
    with pytest.raises(ClauseViolationError) as caught:
        checks()[clause](case)
    return case, caught.value


def _message(case: Case, error: ClauseViolationError, divergence: Divergence | None) -> str:
    record = judge(case.cell, Outcome(error, divergence), None, versions={}, metrics={}, duration_s=0.0)
    assert record.verdict is Verdict.FAIL
    return record.message or ""


@pytest.mark.parametrize(("export", "clause"), [(programs.off_by_one, "PAR-1"), (programs.last_slot_lost, "PAR-6")])
def test_exporters_fault_is_in_the_exported_program(export: Callable[..., Any], clause: str) -> None:
    case, error = _failed("llama", export=export, clause=clause)
    divergence = locate(case, error)
    assert divergence is not None
    assert divergence.first is not None
    assert divergence.first.step is Step.EXPORTED
    assert divergence.first.error == pytest.approx(error.relative_error)
    diverged = f"diverged  exported program: off by {error.relative_error:.1e} of the scale"
    assert diverged in _message(case, error, divergence)


@pytest.mark.parametrize(
    ("architecture", "backend", "fault", "step", "operator", "call"),
    [
        ("llama", lowerings.CHANGES_NUMBERS, nullcontext, Step.EDGE, None, 0),
        ("deepseek_v3", lowerings.STALE_VIEWS, nullcontext, Step.PORTABLE, "aten::mm", 1),
        ("llama", lowerings.WRITES_NO_FURTHER, nullcontext, Step.PORTABLE, "aten::index_put_", 4),
        ("llama", lowerings.ONLY_SIGMOID, lowerings.faulty_delegates, Step.DELEGATED, "XnnpackBackend delegate 0", 1),
        ("llama", lowerings.DOUBLES_DELEGATES, nullcontext, Step.DELEGATED, None, 1),
    ],
)
def test_fault_is_found_where_it_is(
    architecture: str,
    backend: Backend,
    fault: Callable[[], AbstractContextManager[None]],
    step: Step,
    operator: str | None,
    call: int,
) -> None:
    with fault():
        case, error = _failed(architecture, backend)
        divergence = locate(case, error)
    assert divergence is not None
    assert divergence.obstacle is None
    assert divergence.first is not None
    assert divergence.first.step is step, divergence.steps
    assert all(step.right for step in divergence.steps[:-1])
    report = divergence.operators
    assert (report is None) == (operator is None)
    if report is not None:
        assert report.first is not None
        assert (report.first.name, report.call) == (operator, call)
        assert report.first.error > report.tolerance
        assert report.first.source is not None
        assert report.compared > report.unmapped
        assert f"operator  {operator}" in _message(case, error, divergence)
    assert json.loads(as_json(divergence))["steps"][-1]["step"] == step


def test_no_operator_of_a_right_program_is_blamed() -> None:
    built = Builder().program(Program("llama", "reference", Mode.DECODE, PORTABLE.name))
    calls = [tensors(call.tokens, call.position) for call in token_by_token((5, 9, 17, 3)).calls]
    report = compare_operators(built.lower(), PORTABLE, calls, PORTABLE.tolerance)
    assert report.first is None
    assert (report.call, report.unmapped) == (len(calls), 0)
    assert report.worst[0].error < PORTABLE.tolerance


@pytest.fixture(scope="module")
def failed() -> tuple[Case, ClauseViolationError]:
    return _failed("llama", lowerings.CHANGES_NUMBERS)


def _raises(*_: object) -> Iterator[Any]:
    raise ZeroDivisionError("not like this")
    yield


def _dies(*_: object) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def _hangs(*_: object) -> Iterator[Any]:
    time.sleep(60)
    yield


@pytest.mark.parametrize(
    ("work", "obstacle"),
    [
        (_raises, "ZeroDivisionError: not like this"),
        (_dies, "the locating process died of SIGSEGV"),
        (_hangs, "given up after 1 s"),
    ],
)
def test_what_goes_wrong_in_looking_is_one_line(
    failed: tuple[Case, ClauseViolationError],
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[..., Iterator[Any]],
    obstacle: str,
) -> None:
    case, error = failed
    monkeypatch.setattr(locating, "after_lowering", work)
    monkeypatch.setattr(locating, "_LEAST_S", 0)
    divergence = locate(case, error, seconds=1)
    assert divergence is not None
    assert divergence.obstacle == obstacle
    assert divergence.lines == (f"  diverged  after exported program, which is right; {obstacle}",)
    assert "PAR-1 failed at stage execute" in _message(case, error, divergence)


def test_what_is_broken_before_that_is_one_line_too(
    failed: tuple[Case, ClauseViolationError], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, error = failed
    monkeypatch.setattr(locating, "before_lowering", _raises)
    divergence = locate(case, error)
    assert divergence == Divergence((), obstacle="ZeroDivisionError: not like this")
    assert divergence.lines == ("  diverged  not located; ZeroDivisionError: not like this",)


def test_a_program_is_lowered_for_this_once(failed: tuple[Case, ClauseViolationError]) -> None:
    case, error = failed
    case.built.first_located(case.cell.clause)
    other = dataclasses.replace(case, cell=dataclasses.replace(case.cell, clause="PAR-2"))
    divergence = locate(other, error)
    assert divergence is not None
    assert divergence.lines == ("  diverged  after exported program, which is right; further as in PAR-1",)


@pytest.mark.parametrize("code", ["logits-differ", "bytes-differ"])
def test_only_logits_that_a_script_shows_are_looked_at(failed: tuple[Case, ClauseViolationError], code: str) -> None:
    case, _ = failed
    error = ClauseViolationError(Stage.EXECUTE, code, observed=1, expected=2, script=None)
    assert locate(case, error) is None
    assert Outcome(error).diverged == ()


def test_an_exported_program_that_raises_is_reported() -> None:
    case, error = _failed("llama", export=programs.off_by_one)
    refused = dataclasses.replace(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExportedModule, "new_session", _raises)
        divergence = locate(refused, error)
    assert divergence is not None
    assert divergence.first is None
    assert divergence.steps[0].right is None
