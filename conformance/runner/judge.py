"""Turns the outcome of a check into a cell's record, by the truth table of expectations."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import traceback
from collections.abc import Mapping, Sequence

from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.commands import recorded_run_command
from conformance.core.exporter_names import FILE
from conformance.core.text import one_line
from conformance.core.verdicts import (
    CellFailedError,
    ChildDiedError,
    ClauseViolationError,
    NotApplicableError,
    NotRunError,
    Verdict,
)
from conformance.failures.outcome import Outcome
from conformance.matrix.schema import Expectation
from conformance.records.run import CellRecord, ExpectedFailure, Measured, record_of

#: The record of a replay: it has only the cells of one clause, and must not replace that of the last whole run.
REPLAY_RECORD = "build/conformance/replay.json"
#: The path of the environment, which makes the same failure read differently on each machine.
_SITE_PACKAGES = re.compile(r"[^\s`'\"]*/site-packages/")


def replay_command(cell: Cell, exploring: str = "") -> str:
    """One command that judges this cell again; `exploring` are the options that change which scripts are tried."""
    options = ["--arch", cell.architecture, "--clause", cell.clause]
    if cell.subject and cell.subject != FILE:  # `exploring` names the file
        options += ["--exporter", cell.subject]
    options += ["--backend", EXPORTED if cell.backend == EAGER else cell.backend]
    if cell.mode:
        options += ["--mode", cell.mode]
    return recorded_run_command(*options, *shlex.split(exploring), "--output", REPLAY_RECORD)


def bare_record(cell: Cell, verdict: Verdict, message: str | None = None, exploring: str = "") -> CellRecord:
    """A verdict on `cell` without measurements, with the command that judges it again."""
    return record_of(cell, verdict, message, replay_command(cell, exploring))


def judge(
    cell: Cell,
    outcome: Outcome,
    expectation: Expectation | None,
    *,
    versions: Mapping[str, str],
    metrics: Mapping[str, float],
    duration_s: float,
    exploring: str = "",
    measured: Measured | None = None,
) -> CellRecord:
    """The verdict on `cell`, whose check ended with `outcome`.

    A check fails where it measures NaN or infinity. One that passes with such a metric is a harness error: it has
    compared numbers that no comparison refuses. The record goes without it.
    """
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    observed = dataclasses.replace(
        bare_record(cell, Verdict.PASS, exploring=exploring),
        metrics=finite or None,
        **(measured or {}),
        duration_s=round(duration_s, 3),
        bundle=outcome.bundle,
    )
    match error := outcome.error:
        case None if len(finite) < len(metrics):
            unmeasured = ", ".join(f"{name} is {value}" for name, value in metrics.items() if name not in finite)
            message = f"the suite itself failed: {unmeasured}, and the check passed; a metric must be finite"
            return dataclasses.replace(observed, verdict=Verdict.HARNESS_ERROR, message=message)
        case None:
            pass
        case NotApplicableError():
            return dataclasses.replace(observed, verdict=Verdict.NOT_APPLICABLE, message=str(error))
        case NotRunError():
            return dataclasses.replace(observed, verdict=Verdict.NOT_RUN, message=str(error))
        case ChildDiedError():
            return dataclasses.replace(observed, verdict=error.verdict, stage=error.stage, message=str(error))
        case CellFailedError():
            observed = dataclasses.replace(
                observed,
                verdict=Verdict.FAIL,
                stage=error.stage,
                signature=error.signature,
                message=explain(cell, error, versions, observed.replay, outcome.diverged),
            )
        case _:
            trace = "".join(traceback.format_exception(error)[-6:])
            message = f"the suite itself failed: {type(error).__name__}: {error}\n{trace}"
            return dataclasses.replace(observed, verdict=Verdict.HARNESS_ERROR, message=message)
    if expectation is None:
        return observed
    return _against(observed, expectation, as_listed=is_listed(outcome.error, expectation))


def is_listed(error: BaseException | None, expectation: Expectation | None) -> bool:
    """Whether a check that ended with `error` failed as the matrix expects it to."""
    if expectation is None or not isinstance(error, CellFailedError):
        return False
    relative_error = getattr(error, "relative_error", None)
    bounded = expectation.at_most is None or (relative_error is not None and relative_error <= expectation.at_most)
    return bounded and error.signature == expectation.signature


def explain(
    cell: Cell, error: CellFailedError, versions: Mapping[str, str], replay: str, diverged: Sequence[str] = ()
) -> str:
    """All that a reader needs to understand a failure and see it again."""
    where = " · ".join(part for part in (cell.architecture, cell.subject, cell.column) if part)
    lines = [f"{cell.clause} failed at stage {error.stage}: {where}"]
    if isinstance(error, ClauseViolationError):
        lines += [f"  observed  {error.observed}", f"  expected  {error.expected}"]
        if error.script:
            lines.append(f"  script    {error.script}")
        lines += diverged
    else:
        lines += [
            f"  observed  {one_line(_SITE_PACKAGES.sub('', str(error)), max_chars=600)}",
            f"  expected  stage {error.stage} to succeed",
        ]
    lines.append("  versions  " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    lines.append(f"  replay    {replay}")
    return "\n".join(lines)


def _against(record: CellRecord, expectation: Expectation, *, as_listed: bool) -> CellRecord:
    expected = ExpectedFailure(expectation.reason, expectation.link)
    if record.verdict is Verdict.PASS:
        if not expectation.required:
            return record
        message = (
            f"unexpected pass: remove {expectation.cause} from `known` of {record.architecture} in models_matrix.yaml, "
            f"or narrow it in known_failures/ ({expectation.reason})"
        )
        return dataclasses.replace(record, verdict=Verdict.UNEXPECTED_PASS, message=message, expected=expected)
    if as_listed:
        return dataclasses.replace(record, verdict=Verdict.EXPECTED_FAILURE, expected=expected)
    bound = "" if expectation.at_most is None else f", error at most {expectation.at_most}"
    message = f"{record.message}\n  known as  {expectation.cause}: {expectation.signature}{bound}"
    return dataclasses.replace(record, message=message, expected=expected)
