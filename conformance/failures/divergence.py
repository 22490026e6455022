"""Where a program first goes wrong: a decode script replayed at each step from the wrapper to the delegates."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from conformance.core.cells import Program
from conformance.core.exporter_names import REFERENCE
from conformance.decoding.device import foresee
from conformance.decoding.sessions import Inputs, Session
from conformance.failures.operator_report import OperatorReport
from conformance.pipeline.builder import Builder, BuiltProgram
from conformance.reference import TorchExportableModuleWithStaticCache
from conformance.reference.tracing import ready_to_trace

#: Longest text on why a step could not be run.
_MOST_CHARACTERS = 160


class Step(StrEnum):
    """The programs that a script is replayed on, each made from the one before."""

    WRAPPER = "eager wrapper"
    EXPORTED = "exported program"
    EDGE = "edge program"
    PORTABLE = "runtime, portable kernels alone"
    PARTITIONED = "edge program with its delegates, run by torch"
    DELEGATED = "runtime, delegates"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The logits of a script's last call at one step.

    Args:
        step: The step.
        right: Whether the logits are the oracle's; None where the step could not be run.
        error: How far off, as a share of the logits' scale; None for nan and infinity.
        obstacle: Why the step could not be run.
    """

    step: Step
    right: bool | None
    error: float | None = None
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a program first goes wrong.

    Args:
        steps: The steps that were run, in order.
        operators: The operators of the first runtime that is wrong, where they were compared.
        obstacle: Why not all steps were run, where they were not.
    """

    steps: tuple[StepOutcome, ...]
    operators: OperatorReport | None = None
    obstacle: str | None = None

    @property
    def first(self) -> StepOutcome | None:
        """The first step that is wrong."""
        return next((step for step in self.steps if step.right is False), None)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines on it in a failure's message."""
        first, report = self.first, self.operators
        right = [step for step in self.steps if step.right]
        obstacle = f"; {self.obstacle}" if self.obstacle else ""
        if first is not None:
            before = f"; {right[-1].step} {_share(right[-1])}" if right else ""
            lines = [f"  diverged  {first.step}: off by {_share(first)} of the scale{before}{obstacle}"]
        elif self.obstacle:
            known = f"after {right[-1].step}, which is right" if right else "not located"
            lines = [f"  diverged  {known}{obstacle}"]
        else:
            lines = ["  diverged  nowhere: by itself, the script gives right logits at every step"]
        lines += [f"  not run   {step.step}: {step.obstacle}" for step in self.steps if step.right is None]
        if report is not None:
            lines.append(f"  operator  {_operator(report)}")
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class Failure:
    """A program that a script shows to be wrong, and how to judge its logits.

    Args:
        program: The program.
        calls: Token ids, int64 [1, seq], and cache positions, int64 [seq], on empty caches.
        judge: Whether the last call's logits, [1, seq, vocab], are right, and how far off they are.
        tolerance: The largest error of an operator that counts as equal, as a share of its largest value.
    """

    program: Program
    calls: Sequence[Inputs]
    judge: Callable[[torch.Tensor], tuple[bool, float]]
    tolerance: float


def before_lowering(builder: Builder, failure: Failure) -> Iterator[StepOutcome]:
    """The wrapper of the reference, and the exported program: milliseconds, since both have been built."""
    built = builder.program(failure.program)
    if failure.program.exporter == REFERENCE and not (built.backend and built.backend.requantise):
        yield _outcome(Step.WRAPPER, failure, lambda: _WrapperSession(built))
    yield _outcome(Step.EXPORTED, failure, lambda: built.loaded().new_session())


def after_lowering(builder: Builder, failure: Failure) -> Iterator[StepOutcome | OperatorReport]:
    """The steps from there on until one is wrong, then its operators.

    It lowers without delegates (7 s for the llama fixture), and where that is right, with them (20 to 25 s on XNNPACK).
    """
    # Here, since both import `executorch.exir`, which what goes before needs not.
    from conformance.failures.operator_diff import compare_operators
    from conformance.pipeline import lowering

    built = builder.program(failure.program)
    backend = built.backend
    assert backend is not None, "asked of lowered programs"
    alone = dataclasses.replace(backend, partitioners=list, delegating=False, declares=None)
    exported, driver = built.exported, built.exporter.driver

    edge = lowering.lower(copy.deepcopy(exported), alone)
    first = _outcome(Step.EDGE, failure, lambda: driver.exported(edge.edge.exported_program()).new_session())
    yield first
    if first.right is False:
        return
    # Emission uses a lowered program up; a copy takes 0.3 s, lowering again 7 s.
    spare = dataclasses.replace(edge, edge=copy.deepcopy(edge.edge))
    second = _outcome(Step.PORTABLE, failure, lambda: built.session_of(lowering.emit(edge, alone).program))
    yield second
    if (
        second.right is False and driver.by_contract and backend.runs_on is None
    ):  # operators are compared by the contract's own inputs
        yield compare_operators(spare, alone, failure.calls, failure.tolerance)
    if second.right is False:
        return
    if not backend.partitioners():
        return
    yield _outcome(Step.DELEGATED, failure, built.new_session)
    if backend.owns_state:
        return  # run by torch, a delegate that owns the caches would start from empty ones at each call
    whole = built.lower()
    third = _outcome(Step.PARTITIONED, failure, lambda: driver.exported(whole.edge.exported_program()).new_session())
    yield third
    if third.right and driver.by_contract and backend.on_local_runtime:  # this machine's alone logs each operator
        yield compare_operators(whole, backend, failure.calls, failure.tolerance)


class _WrapperSession:
    """The reference wrapper, not exported."""

    def __init__(self, built: BuiltProgram) -> None:
        self._model = built.architecture.prepared(built.backend)
        self._wrapper = TorchExportableModuleWithStaticCache(self._model)

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `conformance.decoding.sessions.Session.step`."""
        with ready_to_trace(self._model):
            logits: torch.Tensor = self._wrapper(input_ids, cache_position)
            return logits.clone()


def _outcome(step: Step, failure: Failure, new_session: Callable[[], Session]) -> StepOutcome:
    try:
        session = new_session()
        foresee((session, inputs) for inputs in failure.calls)
        logits = [session.step(*inputs) for inputs in failure.calls][-1]
        right, error = failure.judge(logits)
    except Exception as obstacle:
        text = " ".join(f"{type(obstacle).__name__}: {obstacle}".split())
        return StepOutcome(step, None, obstacle=text[:_MOST_CHARACTERS])
    return StepOutcome(step, right, error if math.isfinite(error) else None)


def _share(outcome: StepOutcome) -> str:
    return "nan or infinity" if outcome.error is None else f"{outcome.error:.1e}"


def _operator(report: OperatorReport) -> str:
    first = report.first
    if first is None:
        return f"none is off by itself, of {report.compared} compared ({report.unmapped} have no counterpart)"
    inside = f" ({_some(first.inside)})" if first.inside else ""
    return (
        f"{first.name}{inside} in call {report.call}: {first.observed:.6g}, expected {first.expected:.6g}; "
        f"{first.error / report.tolerance:.1e} times the tolerance {report.tolerance:.0e}"
        + (f"; reads through {_some(first.unseen)}, which has no instruction" if first.unseen else "")
        + (f"; {first.source}" if first.source else "")
    )


def _some(names: Iterable[str], most: int = 6) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:most]) + (f" and {len(different) - most} more" if len(different) > most else "")
