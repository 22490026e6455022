"""Incremental runs: the cells whose verdict may differ from an earlier run's, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.core.cells import Cell
from conformance.core.errors import InputError
from conformance.core.exporter_names import RECIPE
from conformance.core.text import first_few, plural
from conformance.core.verdicts import ACCEPTABLE
from conformance.matrix.fingerprints import parts
from conformance.records.run import InvalidRecordError, RunRecord, load_run

#: Names of architectures that are shown before "and N more".
_SHOWN = 8


class NotComparableError(InputError):
    """The earlier run cannot be read, or has no fingerprints."""


@dataclass(frozen=True, slots=True)
class IncrementalPlan:
    """The cells to run again.

    Args:
        run: The id of the earlier run.
        reasons: By the id of a cell that is judged again, why.
        reused: The cells that are not.
    """

    run: str
    reasons: Mapping[str, str]
    reused: tuple[Cell, ...]


def earlier_run(path: Path) -> RunRecord:
    """The run recorded at `path`.

    Raises:
        NotComparableError: The file is not a run record, or has no fingerprints.
    """
    try:
        run = load_run(path)
    except InvalidRecordError as error:
        raise NotComparableError(error.code, str(error)) from error
    except OSError as error:
        raise NotComparableError.of_file(path, error) from error
    if not run.run.fingerprints:
        raise NotComparableError(
            "no-fingerprints", f"{path} has no fingerprints: an older version of the suite wrote it"
        )
    return run


def plan_incremental(
    run: RunRecord, plan: Iterable[Cell], fingerprints: Mapping[str, str], other_scripts: str = ""
) -> IncrementalPlan:
    """Which cells of `plan` to judge again.

    Args:
        run: The earlier run.
        plan: All cells that were selected.
        fingerprints: Those of this run.
        other_scripts: How the decode scripts differ from those of the earlier run; empty if they do not.
    """
    before = run.run.fingerprints or {}
    known = {cell.id: cell for cell in run.cells}
    reasons: dict[str, str] = {}
    reused = []
    for cell in plan:
        # A package that has been removed is a change; so is one that the earlier run did not record.
        changed = [
            name for name in parts(cell, {**before, **fingerprints}) if before.get(name) != fingerprints.get(name)
        ]
        if cell.id not in known:
            reasons[cell.id] = "not judged in that run"
        elif known[cell.id].verdict not in ACCEPTABLE:
            reasons[cell.id] = f"{known[cell.id].verdict} in that run"
        elif _is_unknown(cell.backend):
            reasons[cell.id] = f"the code and the device of {cell.backend} may have changed"
        elif other_scripts:
            reasons[cell.id] = f"other scripts: {other_scripts}"
        elif changed:
            reasons[cell.id] = f"changed: {', '.join(changed)}"
        else:
            reused.append(cell)
    return IncrementalPlan(run.run.id, reasons, tuple(reused))


def _is_unknown(backend: str) -> bool:
    """Whether no fingerprint covers it: it is named as `package.module:NAME`, and may run on a device."""
    prefix, colon, _ = backend.partition(":")
    return bool(colon) and prefix != RECIPE


def plan_lines(plan: IncrementalPlan) -> Sequence[str]:
    """Why cells are judged again, the most frequent reason first, and which are not."""
    reasons = Counter(plan.reasons.values()).most_common()
    lines = [f"{plural(count, 'cell')} judged again since run {plan.run}: {reason}" for reason, count in reasons]
    return [*lines, reused_line(plan)] if plan.reused else lines


def reused_line(plan: IncrementalPlan) -> str:
    """Which cells are not judged again, in one line."""
    names = list(dict.fromkeys(cell.architecture for cell in plan.reused))
    cells = plural(len(plan.reused), "cell")
    unchanged = f"nothing that they depend on has changed since run {plan.run}"
    return f"{cells} not run again: {unchanged}: {first_few(names, _SHOWN)}"
