"""From a parity failure to where its program first goes wrong. It cannot change the verdict."""

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
from conformance.failures.operator_report import OperatorReport
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


def locate(case: Case, error: BaseException | None, seconds: int | None = LIMIT_S) -> Divergence | None:
    """Where the program of a failed cell first goes wrong.

    What needs lowering is done once for each program, in a forked process: the runtime aborts when its debug buffer is
    full, and a delegate that is wrong may crash as well. Whatever fails here becomes the divergence's `obstacle`.

    Args:
        case: The cell.
        error: How it failed.
        seconds: The most that lowering may take; with too few, or None, only what needs none is done.

    Returns:
        None where the failure is not one of logits that a decode script shows.
    """
    if not isinstance(error, ClauseViolationError) or not _locatable(case, error):
        return None
    try:
        return _located(case, error, seconds)
    except Exception as lost:
        return Divergence((), obstacle=f"{type(lost).__name__}: {lost}")


def as_json(divergence: Divergence) -> bytes:
    """For a bundle; nan and infinity, which JSON does not have, are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return value if abs(value) < float("inf") else None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(dataclasses.asdict(divergence)), indent=2, allow_nan=False).encode() + b"\n"


def _locatable(case: Case, error: ClauseViolationError) -> bool:
    cell = case.cell
    coded = error.signature.partition(":")[2] in _CODES
    decodes = cell.program is not None and cell.clause.startswith(_CHAPTER)
    return coded and decodes and isinstance(error.script, DecodeScript)


def _located(case: Case, error: ClauseViolationError, seconds: int | None) -> Divergence:
    script = error.script
    assert isinstance(script, DecodeScript)
    failure = Failure(
        case.built.program,
        calls=[tensors(call.tokens, call.position) for call in script.calls],
        judge=_judge(case, script),
        tolerance=_operator_tolerance(case.builder.backend(case.cell.backend)),
    )
    steps = list(before_lowering(case.builder, failure))
    if case.cell.backend == EXPORTED or any(step.right is False for step in steps):
        return Divergence(tuple(steps))
    if seconds is None:
        return Divergence(tuple(steps), obstacle="`conformance failure locate BUNDLE` looks further")
    if seconds < _LEAST_S:
        return Divergence(tuple(steps), obstacle="no time remained to look further")
    first = case.built.first_located(case.cell.clause)
    if first != case.cell.clause:
        return Divergence(tuple(steps), obstacle=f"further as in {first}")
    case.builder.require_lowering()  # here: a process that is forked from this one cannot ask for another
    results, obstacle = _apart(lambda: after_lowering(case.builder, failure), seconds)
    steps += [result for result in results if isinstance(result, StepOutcome)]
    reports = [result for result in results if isinstance(result, OperatorReport)]
    return Divergence(
        tuple(sorted(steps, key=lambda step: _ORDER[step.step])), reports[0] if reports else None, obstacle
    )


def _judge(case: Case, script: DecodeScript) -> Callable[[torch.Tensor], tuple[bool, float]]:
    """Judges the logits of the script's last call as the check does, without adding to the check's metrics."""
    call, held = list(script.steps())[-1]
    prefixes = call.prefixes(held)
    expected = torch.stack([case.expected.logits(prefix) for prefix in prefixes])
    scale = case.untried_oracle.scale
    unmeasured = dataclasses.replace(case, metrics={}, measured={})

    def judge(logits: torch.Tensor) -> tuple[bool, float]:
        try:
            assert_matches(unmeasured, logits, prefixes, script)
            right = True
        except CellFailedError:
            right = False
        same = logits.shape[1:] == expected.shape
        return right, float((logits[0] - expected).abs().max()) / scale if same else float("inf")

    return judge


def _operator_tolerance(backend: Backend | None) -> float:
    """The tolerance of the logits; where noise is what they are judged by, as much noise."""
    if backend is None or backend.precision is None:
        return backend.tolerance if backend else 0.0
    return float(10 ** (-backend.precision.least_sqnr / 20))


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
