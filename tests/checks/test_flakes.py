"""Other seeds try other scripts and come to the same verdicts: of a correct program, and of a faulty one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import core
from hypothesis.errors import FlakyFailure

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import CellFailedError, ClauseViolationError, Stage, StageError
from conformance.decoding.scripts import DecodeScript, token_by_token
from conformance.exporters.resolve import Exporter
from conformance.pipeline.builder import Builder
from conformance.reference import convert_and_export_with_cache
from tests.faults import programs
from tests.support import seeds
from tests.support.harness import judge

pytestmark = pytest.mark.torch

SEEDS = range(20)
#: Scripts for each clause and seed.
EXAMPLES = 3
CLAUSES = ("PAR-1", "PAR-2", "PAR-3", "PAR-4", "PAR-5", "PAR-6", "PAR-9", "PAR-10", "PAR-12")


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As `--hypothesis-seed` has it."""
    given: int = request.param
    monkeypatch.setattr(core, "global_force_seed", given)
    return given


@pytest.fixture(scope="module")
def builder() -> Builder:
    subjects: dict[str, Callable[..., Any]] = {
        "good": convert_and_export_with_cache,
        "rewinds_badly": programs.keeps_what_followed,
    }
    return Builder({name: Exporter(name, export) for name, export in subjects.items()})


def _signatures(builder: Builder, subject: str) -> dict[str, str | None]:
    return {clause: _signature(builder, subject, clause) for clause in CLAUSES}


def _signature(builder: Builder, subject: str, clause: str) -> str | None:
    try:
        checks()[clause](Case(Cell("mistral", subject, EXPORTED, Mode.DYNAMIC, clause), builder, 5, derandomize=False))
    except CellFailedError as error:
        return error.signature
    return None


def test_any_seed_lets_a_correct_program_pass(builder: Builder, seed: int) -> None:
    assert _signatures(builder, "good") == dict.fromkeys(CLAUSES)


def test_any_seed_catches_a_fault(builder: Builder, seed: int) -> None:
    assert _signature(builder, "rewinds_badly", "PAR-3") == "execute:logits-differ"


_calls = {"made": 0}


@torch.library.custom_op("conformance_tests::is_wrong_now", mutates_args=())
def _is_wrong_now(position: torch.Tensor) -> torch.Tensor:
    """Whether this is the 30th call of the process, beyond those of pinned scripts, or the 60th, and so on."""
    _calls["made"] += 1
    return torch.tensor(_calls["made"] % 30 == 0)


@_is_wrong_now.register_fake
def _(position: torch.Tensor) -> torch.Tensor:
    return torch.empty((), dtype=torch.bool)


def _wrong_now_and_then(inner: Any, ids: torch.Tensor, position: torch.Tensor) -> Any:
    logits = inner(ids, position)
    return torch.where(torch.ops.conformance_tests.is_wrong_now(position), logits.flip(-1), logits)


@pytest.mark.parametrize(("clause", "shrink"), [("PAR-4", True), ("PAR-4", False), ("PAR-12", True)])
def test_a_failure_that_does_not_come_again_is_the_programs(clause: str, shrink: bool) -> None:
    _calls["made"] = 0
    with pytest.raises(ClauseViolationError, match="not so when the script was tried again") as caught:
        judge(clause, "llama", programs._subject(_wrong_now_and_then), shrink=shrink)
    assert caught.value.signature == "execute:logits-differ:not-deterministic"
    assert isinstance(caught.value.script, DecodeScript)


def test_a_failure_of_the_suite_that_does_not_come_again_is_its_own(builder: Builder) -> None:
    tried: set[DecodeScript] = set()

    def fails_once(script: DecodeScript) -> None:
        if script not in tried:
            tried.add(script)
            raise ZeroDivisionError

    case = Case(Cell("mistral", "good", EXPORTED, Mode.DYNAMIC, "PAR-1"), builder, EXAMPLES)
    with pytest.raises(FlakyFailure):
        case.try_scripts(case.space.prefills(), fails_once)


def test_a_failure_of_another_kind_while_shrinking_does_not_hide_the_first(builder: Builder) -> None:
    """As of a runtime that refuses the next script."""
    case = Case(Cell("mistral", "good", EXPORTED, Mode.DYNAMIC, "PAR-1"), builder, EXAMPLES)
    pinned = token_by_token((1, 2, 3))
    shown = ClauseViolationError(Stage.EXECUTE, "logits-differ", observed=1, expected=2, script=pinned)

    def refuses_others(script: DecodeScript) -> None:
        raise shown if script == pinned else StageError(Stage.EXECUTE, RuntimeError("refused"))

    with pytest.raises(ClauseViolationError) as caught:
        case.try_scripts(case.space.prefills(), refuses_others, (pinned,))
    assert caught.value is shown


def _unsteady_check(case: Case) -> None:
    """Passes with even seeds alone."""
    seed: int | None = core.global_force_seed
    if seed is None or seed % 2:
        raise ClauseViolationError(Stage.EXECUTE, "odd", observed="an odd seed", expected="an even one")


def test_a_verdict_that_goes_by_the_seed_is_seen(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("mistral", "good", EXPORTED, Mode.DYNAMIC, "PAR-1")
    monkeypatch.setattr(core, "global_force_seed", None)
    monkeypatch.setattr(seeds, "checks", lambda: {"PAR-1": _unsteady_check})
    trial = seeds.tried(cell, builder, range(3), EXAMPLES, None)
    assert trial.outcomes == {0: "pass", 1: "execute:odd", 2: "pass"}
    assert seeds.unsteady([trial]) == [trial]


def test_pinned_scripts_are_tried_with_the_first_seed(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("mistral", "good", EXPORTED, Mode.DYNAMIC, "PAR-6")
    monkeypatch.setattr(core, "global_force_seed", None)
    asked: list[int] = []
    whole = Case.try_scripts

    def counted(self: Case, strategy: Any, judge: Any, pinned: tuple[Any, ...] = (), **sessions: Any) -> None:
        asked.append(len(pinned))
        whole(self, strategy, judge, pinned, **sessions)

    monkeypatch.setattr(Case, "try_scripts", counted)
    trial = seeds.tried(cell, builder, range(3), EXAMPLES, None)
    assert trial.steady
    assert asked[0] > 0
    assert asked[1:] == [0, 0]
