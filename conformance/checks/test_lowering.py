"""Lowering: the program fits the edge dialect, and the backend takes all that it can."""

from __future__ import annotations

from conformance.checks.case import Case, clause
from conformance.verdicts import ClauseViolationError, Stage

#: Names shown before "and N more".
_SHOWN = 5


@clause("LOW-1")
def test_lowers(case: Case) -> None:
    """To the edge dialect with IR validity checks on, and on to the bytes of a program."""
    artifact = case.workbench.artifact(case.cell.architecture, case.subject.name, case.mode, case.cell.backend)
    case.metrics.update(
        delegates=artifact.partition.delegates,
        delegated_operators=artifact.partition.delegated,
        undelegated_operators=artifact.partition.undelegated,
        lower_s=round(artifact.lower_s, 3),
        emit_s=round(artifact.emit_s, 3),
        program_bytes=len(artifact.program),
    )


@clause("LOW-2")
def test_partition_is_complete(case: Case) -> None:
    """Asked again, the partitioner finds nothing more."""
    partition = case.workbench.partition(case.cell.architecture, case.subject.name, case.mode, case.cell.backend)
    leftover = partition.leftover
    case.metrics["leftover"] = len(leftover)
    if leftover:
        more = f" and {len(leftover) - _SHOWN} more" if len(leftover) > _SHOWN else ""
        raise ClauseViolationError(
            Stage.LOWER,
            "partition-incomplete",
            observed=f"{len(leftover)} more: {', '.join(leftover[:_SHOWN])}{more}",
            expected="nothing left that the partitioner would take",
        )
