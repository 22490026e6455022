"""From a parity failure to where its program first goes wrong, without ever putting the verdict at risk."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from conformance.checks.case import Case, tensors
from conformance.checks.compare import assert_matches
from conformance.core.cells import EXPORTED
from conformance.core.time_scale import scaled
from conformance.core.verdicts import CellFailedError, ClauseViolationError
from conformance.decoding.scripts import DecodeScript
from conformance.failures.divergence import (
    Divergence,
    Failure,
    Step,
    StepOutcome,
    after_lowering,
    before_lowering,
)
from conformance.failures.operator_diff import OperatorReport
from conformance.pipeline.backends import Backend
from conformance.process.fork import collect, ending

#: The most seconds that a failure may cost beside its check. Lowering twice takes 30 on a free core; cores are not.
LIMIT_S = scaled(90)
#: The file of a bundle with all that was found.
DIVERGENCE = "divergence.json"
#: With less time than this, nothing is lowered.
_LEAST_S = 10
#: What a difference of logits is called.
_CODES = ("logits-differ", "not-finite", "tokens-differ", "greedy-differs")
_CHAPTER = "PAR-"
_ORDER = {step: index for index, step in enumerate(Step)}


def locate(case: Case, error: BaseException, seconds: int | None = LIMIT_S) -> Divergence | None:
    """Where the program of a failed cell first goes wrong; the lines on that are put into the error.

    What needs lowering is done once for each program, in a forked process: the runtime aborts when its debug buffer is
    full, and a delegate that is wrong may crash as well. Whatever fails here becomes one line.

    Args:
        case: The cell.
        error: How it failed.
        seconds: The most that lowering may take; with too few, or none at all, only what needs none is done.

    Returns:
        None where the failure is not one of logits that a decode script shows.
    """
    if not isinstance(error, ClauseViolationError) or not _locatable(case, error):
        return None
    try:
        divergence = _located(case, error, seconds)
    except Exception as lost:
        divergence = Divergence((), obstacle=f"{type(lost).__name__}: {lost}")
    error.diverged = lines(divergence)
    return divergence


def lines(divergence: Divergence) -> tuple[str, ...]:
    """What a failure's message says of it."""
    first, report = divergence.first, divergence.operators
    right = [each for each in divergence.steps if each.right]
    obstacle = f"; {divergence.obstacle}" if divergence.obstacle else ""
    if first is not None:
        before = f"; {right[-1].step} {_share(right[-1])}" if right else ""
        told = [f"  diverged  {first.step}: off by {_share(first)} of the scale{before}{obstacle}"]
    elif divergence.obstacle:
        known = f"after {right[-1].step}, which is right" if right else "not located"
        told = [f"  diverged  {known}{obstacle}"]
    else:
        told = ["  diverged  nowhere: its script, by itself, comes out right at every step"]
    told += [f"  not run   {each.step}: {each.obstacle}" for each in divergence.steps if each.right is None]
    if report is not None:
        told.append(f"  operator  {_operator(report)}")
    return tuple(told)


def as_json(divergence: Divergence) -> bytes:
    """For a bundle; nan and infinity, which JSON does not have, are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return value if abs(value) < float("inf") else None
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(dataclasses.asdict(divergence)), indent=2, allow_nan=False).encode() + b"\n"


def _locatable(case: Case, error: ClauseViolationError) -> bool:
    cell = case.cell
    coded = error.signature.partition(":")[2] in _CODES
    named = cell.subject is not None and cell.mode is not None and cell.clause.startswith(_CHAPTER)
    return coded and named and isinstance(error.script, DecodeScript)


def _located(case: Case, error: ClauseViolationError, seconds: int | None) -> Divergence:
    script = error.script
    assert isinstance(script, DecodeScript)
    failure = Failure(
        case.built.program,
        calls=[tensors(call.tokens, call.position) for call in script.calls],
        judge=_judge(case, script),
        tolerance=_operator_tolerance(case.builder.backends.get(case.cell.backend)),
    )
    steps = list(before_lowering(case.builder, failure))
    if case.cell.backend == EXPORTED or any(step.right is False for step in steps):
        return Divergence(tuple(steps))
    if seconds is None:
        return Divergence(tuple(steps), obstacle="`python -m conformance locate BUNDLE` looks further")
    if seconds < _LEAST_S:
        return Divergence(tuple(steps), obstacle="no time was left to look further")
    first = case.built.first_located(case.cell.clause)
    if first != case.cell.clause:
        return Divergence(tuple(steps), obstacle=f"further as in {first}")
    found, obstacle = _apart(lambda: after_lowering(case.builder, failure), seconds)
    steps += [each for each in found if isinstance(each, StepOutcome)]
    reports = [each for each in found if isinstance(each, OperatorReport)]
    return Divergence(
        tuple(sorted(steps, key=lambda each: _ORDER[each.step])), reports[0] if reports else None, obstacle
    )


def _judge(case: Case, script: DecodeScript) -> Callable[[torch.Tensor], tuple[bool, float]]:
    """As the check does it, and measured without touching what the check has measured."""
    call, held = list(script.steps())[-1]
    prefixes = call.prefixes(held)
    expected = torch.stack([case.expected.logits(prefix) for prefix in prefixes])
    scale = case.untried_oracle.scale
    apart = dataclasses.replace(case, metrics={}, measured={})

    def judge(logits: torch.Tensor) -> tuple[bool, float]:
        try:
            assert_matches(apart, logits, prefixes, script)
            right = True
        except CellFailedError:
            right = False
        same = logits.shape[1:] == expected.shape
        return right, float((logits[0] - expected).abs().max()) / scale if same else float("inf")

    return judge


def _operator_tolerance(backend: Backend | None) -> float:
    """That of the logits; where they are judged by noise, as much noise."""
    if backend is None or backend.precision is None:
        return backend.tolerance if backend else 0.0
    return float(10 ** (-backend.precision.least_sqnr / 20))


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
    every = list(dict.fromkeys(names))
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def _apart(work: Callable[[], Iterable[Any]], seconds: int) -> tuple[list[Any], str | None]:
    """What `work` yields in a forked process within `seconds`, and why it yielded no more, if that was not its end."""

    def caught() -> Iterator[Any]:
        torch.set_num_threads(1)  # threads do not outlive a fork
        try:
            yield from work()
        except Exception as error:
            yield f"{type(error).__name__}: {error}"

    with open(os.devnull, "wb") as silence:
        results, code = collect(caught, output=silence.fileno(), seconds=seconds)
    if results and isinstance(results[-1], str):
        return results[:-1], results[-1]
    if code == -signal.SIGALRM:
        return results, f"given up after {seconds} s"
    return results, f"the locating process {ending(code)}" if code else None
