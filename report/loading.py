"""Reads run records, and refuses invalid ones with one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.records.bundle import FACTS
from conformance.records.run import (
    CellRecord,
    InvalidRecordError,
    PartitionRecord,
    RunRecord,
    is_journal,
    journal_of,
    load_run,
)

from .errors import ReportError

#: The largest integer that DuckDB, JavaScript and plots represent exactly.
_MAX_COUNT = 1 << 53
#: The end of the name of a file that `report.database` writes.
DATABASE_SUFFIX = ".duckdb"
#: The ends of the names of the files that are read in a folder.
_ENDINGS = (".json", ".json.gz", ".jsonl")


def load(path: Path) -> RunRecord:
    """The record at `path`.

    Raises:
        ReportError: The file cannot be read, is not a run record, or contradicts itself.
    """
    try:
        run = load_run(path)
    except IsADirectoryError as error:
        example = path / "run.json"
        raise ReportError("file-error", f"{path} is a folder: pass a run record, such as {example}") from error
    except OSError as error:
        raise ReportError.of_file(path, error) from error
    except InvalidRecordError as error:
        raise ReportError(error.code, str(error)) from error
    for problem in _problems(run):
        raise ReportError("invalid-record", f"{path} is not a run record: {problem}")
    return run


def record_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files of `paths`, each once: files, and for folders all records and journals below them by their names.

    Skipped are hidden files, journals beside their record, and failure bundles: by default a run writes them below the
    folder of its record.

    Raises:
        ReportError: A path does not exist, or is a folder without records.
    """
    found: list[Path] = []
    for path in paths:
        try:
            if not path.is_dir():
                path.stat()
                found.append(path)
                continue
            below = [file for file in path.rglob("*") if file.name.endswith(_ENDINGS) and not _is_other(file)]
        except OSError as error:
            raise ReportError.of_file(path, error) from error
        if not below:
            endings = "*.json, *.json.gz or *.jsonl"
            raise ReportError("no-records", f"no run records in {path}: it has no {endings} outside of failure bundles")
        journals = {journal_of(file) for file in below if not is_journal(file)}
        found += sorted(file for file in below if file not in journals)
    return tuple(dict.fromkeys(file.resolve() for file in found))


def _is_other(file: Path) -> bool:
    """Whether it is not a regular file, is hidden, or belongs to a failure bundle."""
    return not file.is_file() or file.name.startswith(".") or (file.parent / FACTS).exists()


def load_each(paths: Iterable[Path]) -> Iterator[tuple[Path, RunRecord]]:
    """The records at `paths` with their paths, one after the other.

    Raises:
        ReportError: As for `load`, and for a run that is given twice: one of the two would be dropped.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        run = load(path)
        if run.run.id in seen:
            raise ReportError(
                "run-given-twice", f"run {run.run.id} is given twice: {seen[run.run.id]} and {path}; leave one out"
            )
        seen[run.run.id] = path
        yield path, run


def load_all(paths: Iterable[Path]) -> tuple[RunRecord, ...]:
    """The records at `paths`, oldest first."""
    runs = (run for _, run in load_each(paths))
    return tuple(sorted(runs, key=lambda run: (when(run.run.started), run.run.id)))


def when(text: str) -> datetime:
    """A time of a record, in UTC; UTC is also assumed for a time without a zone."""
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _problems(run: RunRecord) -> list[str]:
    """Errors that the schema cannot express: a site made from such a record would drop cells or mix them up."""
    problems = [
        f"run.{name}: {text!r} is not an ISO 8601 time"
        for name, text in (("started", run.run.started), ("finished", run.run.finished))
        if text is not None and not _is_time(text)
    ]
    seen: set[str] = set()
    for index, cell in enumerate(run.cells):
        if cell.id in seen:
            problems.append(f"cells.{index}.id: {cell.id!r} occurs twice")
        if cell.id != _id(cell):
            problems.append(f"cells.{index}.id: got {cell.id!r}, expected {_id(cell)!r} from the cell's other fields")
        if not (cell.architecture and cell.backend and cell.clause):
            problems.append(f"cells.{index}: architecture, backend and clause must not be empty")
        problems += [f"cells.{index}.partition: {name} is not a valid count" for name in _bad_counts(cell.partition)]
        seen.add(cell.id)
    return problems


def _bad_counts(partition: PartitionRecord | None) -> list[str]:
    """The names of counts that are negative, or too large to be represented exactly."""
    if partition is None:
        return []
    sizes = ("program_bytes", "constant_bytes", "planned_bytes", "cache_bytes")
    counts = [(name, getattr(partition, name)) for name in sizes]
    counts += [*partition.delegates.items(), *partition.delegated.items(), *partition.undelegated.items()]
    return [name for name, count in counts if not 0 <= count < _MAX_COUNT]


def _id(cell: CellRecord) -> str:
    mode = Mode(cell.mode) if cell.mode else None
    return Cell(cell.architecture, cell.subject, cell.backend, mode, cell.clause).id


def _is_time(text: str) -> bool:
    try:
        when(text)
    except (ValueError, OverflowError):
        return False
    return True
