"""Where a program first goes wrong: a decode script replayed at each step from the wrapper to the delegates."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from conformance.core.cells import Program
from conformance.decoding.sessions import Session
from conformance.failures.operator_diff import Inputs, OperatorReport, compare_operators
from conformance.pipeline import lowering, stages
from conformance.pipeline.builder import Builder, BuiltProgram
from conformance.reference import TorchExportableModuleWithStaticCache
from conformance.reference.tracing import ready_to_trace

#: Longest sentence on why a step could not be taken.
_MOST_CHARACTERS = 160
#: The subject whose wrapper can be run without exporting it.
_REFERENCE = "reference"


class Step(StrEnum):
    """What a script is replayed on, in the order in which each is made from the one before."""

    WRAPPER = "eager wrapper"
    EXPORTED = "exported program"
    EDGE = "edge program"
    PORTABLE = "runtime, portable kernels alone"
    PARTITIONED = "edge program with its delegates, run by torch"
    DELEGATED = "runtime, delegates"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of a script's last call.

    Args:
        step: Where.
        right: Whether the logits are the oracle's; None where they could not be had.
        error: How far off, as a share of the logits' scale; None for nan and infinity.
        obstacle: Why they could not be had.
    """

    step: Step
    right: bool | None
    error: float | None = None
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """All that was found: the steps that were taken, in order, and the operators of the first runtime that is wrong.

    `obstacle` says why nothing more was found, where more could be expected.
    """

    steps: tuple[StepOutcome, ...]
    operators: OperatorReport | None = None
    obstacle: str | None = None

    @property
    def first(self) -> StepOutcome | None:
        """The first step that is wrong."""
        return next((each for each in self.steps if each.right is False), None)


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
    if failure.program.exporter == _REFERENCE and not (built.backend and built.backend.requantise):
        yield _outcome(Step.WRAPPER, failure, lambda: _WrapperSession(built))
    yield _outcome(Step.EXPORTED, failure, lambda: built.loaded().new_session())


def after_lowering(builder: Builder, failure: Failure) -> Iterator[StepOutcome | OperatorReport]:
    """The steps from there on until one is wrong, then its operators.

    It lowers without delegates (7 s for the llama fixture), and where that is right, with them (20 to 25 s on XNNPACK).
    """
    built, backend = builder.program(failure.program), builder.backends[failure.program.backend]
    alone = dataclasses.replace(backend, partitioners=list, delegating=False, declares=None)
    exported, driver = built.exported, built.exporter.driver

    edge = lowering.lower(copy.deepcopy(exported), alone)
    first = _outcome(Step.EDGE, failure, lambda: driver.exported(edge.edge.exported_program()).new_session())
    yield first
    if first.right is False:
        return
    # Emission uses a lowered program up; a copy takes 0.3 s, lowering again 7 s.
    spare = dataclasses.replace(edge, edge=copy.deepcopy(edge.edge))
    second = _outcome(
        Step.PORTABLE, failure, lambda: driver.runtime(exported, stages.load(lowering.emit(edge, alone).program))
    )
    yield second
    if second.right is False and driver.by_contract:  # operators are compared by the contract's own inputs
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
    if third.right and driver.by_contract:
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
        logits = [session.step(*inputs) for inputs in failure.calls][-1]
        right, error = failure.judge(logits)
    except Exception as obstacle:
        told = " ".join(f"{type(obstacle).__name__}: {obstacle}".split())
        return StepOutcome(step, None, obstacle=told[:_MOST_CHARACTERS])
    return StepOutcome(step, right, error if math.isfinite(error) else None)
