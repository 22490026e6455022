"""A backend whose programs run on a device, by a driver: ExecuTorch's Python runtime in another process."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.device import Device
from conformance.core.paths import ROOT
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Verdict
from conformance.decoding import device as devices
from conformance.decoding.explicit_cache import ExplicitCacheDriver
from conformance.exporters.resolve import Exporter
from conformance.failures.divergence import Step
from conformance.failures.localize import locate
from conformance.pipeline import stages
from conformance.pipeline.backends import PORTABLE, Backend, backend_called
from conformance.pipeline.backends.base import Interpreter, Precision
from conformance.pipeline.backends.other_process import XNNPACK
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from conformance.reference import convert_and_export_with_cache, runner_methods
from tests.faults import drivers
from tests.faults.drivers import driver
from tests.support.harness import one_layer, suite
from tests.support.messages import refused

pytestmark = pytest.mark.torch

_NAME = "conformance.pipeline.backends.other_process:XNNPACK"
_REFERENCE = Exporter("reference", convert_and_export_with_cache, metadata=runner_methods)


@pytest.fixture(autouse=True)
def _without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device runs, this machine's runtime does not."""

    def load(program: bytes) -> Any:
        raise AssertionError("this machine's runtime was given a program")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(stages, "load", load)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All tests lower the same program, once."""
    return Store(tmp_path_factory.mktemp("store"), limit=100)


def _case(
    clause: str,
    store: Store,
    command: tuple[str, ...] | None = None,
    exporter: Exporter = _REFERENCE,
    precision: Precision | None = None,
) -> Case:
    device = Device("the board", command or driver(drivers.none))
    backend = dataclasses.replace(PORTABLE, name="board", runs_on=device, precision=precision)
    builder = Builder({exporter.name: exporter}, {backend.name: backend}, one_layer, store)
    cell = Cell("llama", exporter.name, backend.name, Mode.DECODE, clause)
    return Case(cell, builder, examples=3)


def _judge(case: Case) -> None:
    checks()[case.cell.clause](case)


def _right() -> tuple[str, ...]:
    assert XNNPACK.runs_on is not None
    return XNNPACK.runs_on.command


@pytest.mark.parametrize("clause", ["PAR-1", "PAR-9", "PAR-10", "PAR-12"])
def test_right_driver_passes_with_one_command(clause: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[int] = []
    run = devices._answers

    def counted(sessions: Any, calls: Any) -> Any:
        commands.append(len(calls))
        return run(sessions, calls)

    monkeypatch.setattr(devices, "_answers", counted)
    _judge(_case(clause, store, _right()))
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("fault", "clause", "code", "observed"),
    [
        (drivers.exchanges_two_calls, "PAR-1", "logits-of-another-call", r"for the call \[\d+\] at 0, the logits of"),
        (
            drivers.is_a_call_late,
            "PAR-1",
            "logits-of-another-call",
            r"for the call \[\d+\] at 1, the logits of .* at 0",
        ),
        (drivers.loses_a_row, "PAR-1", "wrong-shape", r"logits \[1, 0, \d+\]"),
        (drivers.gives_nan, "PAR-1", "not-finite", r"nan or inf in call \[\d+\] at 0"),
        (drivers.keeps_caches, "PAR-11", "logits-differ", r"for logit \d+ of the call \[\d+\] at \d"),
    ],
)
def test_wrong_logits_of_a_driver_are_named(
    fault: Callable[..., None], clause: str, code: str, observed: str, store: Store
) -> None:
    with pytest.raises(ClauseViolationError, match=observed) as caught:
        _judge(_case(clause, store, driver(fault)))
    assert caught.value.signature == f"execute:{code}"


def test_logits_of_another_call_are_named_where_the_backend_rounds(store: Store) -> None:
    precision = Precision(least_sqnr=40.0, perturbation_std=1e-6, max_perturbed_oracles=0, tie_margin=0.05)
    with pytest.raises(ClauseViolationError) as caught:
        _judge(_case("PAR-1", store, driver(drivers.exchanges_two_calls), precision=precision))
    assert caught.value.signature == "execute:logits-of-another-call"


def test_divergence_is_located_on_the_device(store: Store) -> None:
    """Operators are not compared: their values would be those of this machine's runtime."""
    case = _case("PAR-1", store, driver(drivers.is_off))
    with pytest.raises(ClauseViolationError) as caught:
        _judge(case)
    divergence = locate(case, caught.value, seconds=300)
    assert divergence is not None
    assert divergence.first is not None
    assert divergence.first.step is Step.PORTABLE, divergence
    assert (divergence.operators, divergence.obstacle) == (None, None)


@pytest.mark.parametrize(
    ("clause", "reason"),
    [
        ("LOW-5", "the driver of the board does not list its kernels"),
        ("RUN-2", "the driver of the board makes calls, and has no LLM runner"),
        ("RUN-3", "the driver of the board makes calls, and has no LLM runner"),
    ],
)
def test_what_a_driver_cannot_show_is_not_applicable(clause: str, reason: str, store: Store) -> None:
    with pytest.raises(NotApplicableError, match=reason):
        _judge(_case(clause, store))


def test_metadata_are_read_from_the_file(store: Store) -> None:
    _judge(_case("RUN-1", store))


def test_caches_that_are_passed_in_and_out_are_not_applicable(store: Store) -> None:
    exporter = Exporter("explicit", convert_and_export_with_cache, driver=ExplicitCacheDriver())
    with pytest.raises(NotApplicableError, match="the board makes calls that are known ahead"):
        _judge(_case("PAR-1", store, exporter=exporter))


def test_backend_has_one_thing_that_runs_it() -> None:
    with refused("invalid-backend"):
        Backend(
            "board",
            list,
            1e-5,
            delegating=False,
            interpreter=Interpreter("torch", nullcontext),
            runs_on=Device("the board", ("driver",)),
        )


def test_it_is_named_on_the_command_line() -> None:
    assert backend_called(_NAME) == dataclasses.replace(XNNPACK, name=_NAME)


@pytest.mark.process
def test_verdicts_are_those_of_this_machines_runtime(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    options = ["--arch", "llama", "--backend", f"xnnpack,{_NAME}", "--mode", Mode.DECODE, "--max-examples", "2", "-n0"]
    # Of parity, what differs in kind: each clause starts the driver, and all of them take minutes on a busy machine.
    ended = suite(*options, "--clause", "LOW-1,LOW-3,LOW-5,PAR-1,PAR-7,PAR-9,RUN", "--output", str(record))
    verdicts: dict[str, dict[str, str]] = {}
    for cell in json.loads(record.read_text())["cells"]:
        verdicts.setdefault(cell["backend"], {})[cell["clause"]] = cell["verdict"]
    differing = {"LOW-3": Verdict.NOT_RUN} | dict.fromkeys(("LOW-5", "RUN-2", "RUN-3"), Verdict.NOT_APPLICABLE)
    assert verdicts[_NAME] == verdicts["xnnpack"] | differing, ended.stdout[-2000:]
    assert set(verdicts["xnnpack"].values()) == {Verdict.PASS}
    assert ended.returncode == 1, "LOW-3 was not run, for lack of a baseline"
