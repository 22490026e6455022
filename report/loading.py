"""Run records from disk, refused with one sentence where they are not what they should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.records.run import CellRecord, NoRunError, PartitionRecord, RunRecord, load_run
from report.errors import ReportError

#: What DuckDB, JavaScript and a picture can still tell from its neighbours.
_NO_COUNT = 1 << 53


def load(path: Path) -> RunRecord:
    """The record at `path`.

    Raises:
        ReportError: The file cannot be read, is no run record, or contradicts itself.
    """
    try:
        run = load_run(path)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error
    except NoRunError as error:
        raise ReportError(str(error)) from error
    for problem in _problems(run):
        raise ReportError(f"{path} is no run record: {problem}")
    return run


def load_all(paths: Sequence[Path]) -> tuple[RunRecord, ...]:
    """The records at `paths`, oldest first; the same run twice is an error, since one of the two would be dropped."""
    seen: dict[str, Path] = {}
    runs = []
    for path in paths:
        run = load(path)
        if run.run.id in seen:
            raise ReportError(f"{path}: run {run.run.id} is given twice; {seen[run.run.id]} holds it too")
        seen[run.run.id] = path
        runs.append(run)
    return tuple(sorted(runs, key=lambda run: (when(run.run.started), run.run.id)))


def when(text: str) -> datetime:
    """A time of a record; one without a zone is in UTC."""
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _problems(run: RunRecord) -> list[str]:
    """What the schema cannot say: a site made from such a record would drop cells or mix them up."""
    problems = [
        f"run.{name}: {text!r} is no ISO 8601 time"
        for name, text in (("started", run.run.started), ("finished", run.run.finished))
        if text is not None and not _is_time(text)
    ]
    seen: set[str] = set()
    for index, cell in enumerate(run.cells):
        if cell.id in seen:
            problems.append(f"cells.{index}.id: {cell.id!r} is there twice")
        if cell.id != _id(cell):
            problems.append(f"cells.{index}.id: {cell.id!r} should be {_id(cell)!r}, as the cell's parts say")
        if not (cell.architecture and cell.backend and cell.clause):
            problems.append(f"cells.{index}: architecture, backend and clause must not be empty")
        numbers = {"duration_s": cell.duration_s, **(cell.metrics or {})}
        if cell.partition:
            numbers |= {"lower_s": cell.partition.lower_s, "emit_s": cell.partition.emit_s}
        problems += [f"cells.{index}: {name} is not finite" for name, n in numbers.items() if not math.isfinite(n)]
        problems += [f"cells.{index}.partition: {name} is no number of anything" for name in _no_counts(cell.partition)]
        seen.add(cell.id)
    return problems


def _no_counts(made: PartitionRecord | None) -> list[str]:
    """What is less than nothing, or more than any program has."""
    if made is None:
        return []
    sizes = ("program_bytes", "constant_bytes", "planned_bytes", "cache_bytes")
    counts = [(name, getattr(made, name)) for name in sizes]
    counts += [*made.delegates.items(), *made.delegated.items(), *made.undelegated.items()]
    return [name for name, count in counts if not 0 <= count < _NO_COUNT]


def _id(cell: CellRecord) -> str:
    mode = Mode(cell.mode) if cell.mode else None
    return Cell(cell.architecture, cell.subject, cell.backend, mode, cell.clause).id


def _is_time(text: str) -> bool:
    try:
        when(text)
    except (ValueError, OverflowError):
        return False
    return True
