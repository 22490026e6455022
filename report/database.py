"""Run records in a DuckDB file, for questions in SQL: the tables `runs`, `cells` and `statuses`."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, cast

import duckdb

from conformance.core.commands import command
from conformance.core.contract import Level
from conformance.core.text import one_line, plural
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, RunRecord, cell_to_json

from .analysis.history import PACKAGES
from .analysis.status import Reached, Status, Violation
from .analysis.variants import Variant
from .errors import ReportError
from .loading import DATABASE_SUFFIX, load_each, record_files, when
from .trends import HistoryPoint, history_points

_PARTITION = """STRUCT(
    delegates MAP(VARCHAR, BIGINT), delegated MAP(VARCHAR, BIGINT), undelegated MAP(VARCHAR, BIGINT),
    program_bytes BIGINT, constant_bytes BIGINT, planned_bytes BIGINT, cache_bytes BIGINT,
    lower_s DOUBLE, emit_s DOUBLE, moved MAP(VARCHAR, BIGINT)
)"""
#: The types of each table's columns.
TABLES = {
    "runs": {
        "run": "VARCHAR",
        "started": "TIMESTAMP",
        "finished": "TIMESTAMP",
        "complete": "BOOLEAN",
        "seed": "HUGEINT",
        "commit": "VARCHAR",
        "options": "MAP(VARCHAR, VARCHAR)",
        "transformers": "VARCHAR",
        "torch": "VARCHAR",
        "executorch": "VARCHAR",
        "packages": "MAP(VARCHAR, VARCHAR)",
        "python": "VARCHAR",
        "platform": "VARCHAR",
        "cpu": "VARCHAR",
        "cells": "BIGINT",
        "file": "VARCHAR",
    },
    "cells": {
        "run": "VARCHAR",
        "started": "TIMESTAMP",
        "id": "VARCHAR",
        "architecture": "VARCHAR",
        "subject": "VARCHAR",
        "backend": "VARCHAR",
        "mode": "VARCHAR",
        "clause": "VARCHAR",
        "verdict": "VARCHAR",
        "stage": "VARCHAR",
        "signature": "VARCHAR",
        "message": "VARCHAR",
        "metrics": "MAP(VARCHAR, DOUBLE)",
        "duration_s": "DOUBLE",
        "replay": "VARCHAR",
        "bundle": "VARCHAR",
        "partition": _PARTITION,
        "reason": "VARCHAR",
        "link": "VARCHAR",
    },
    "statuses": {
        "run": "VARCHAR",
        "started": "TIMESTAMP",
        "architecture": "VARCHAR",
        "subject": "VARCHAR",
        "backend": "VARCHAR",
        "mode": "VARCHAR",
        "status": "VARCHAR",
        "reached": "VARCHAR",
        "stage": "VARCHAR",
        "violations": "STRUCT(clause VARCHAR, level VARCHAR, known BOOLEAN)[]",
        "verdicts": "MAP(VARCHAR, BIGINT)",
        "accepted": "BIGINT",
        "judged": "BIGINT",
    },
}
#: By default, DuckDB keeps what it writes in memory, up to 80 % of the machine's; a record of 7000 cells takes 3 MB.
_MEMORY = "1GB"


def write_database(paths: Sequence[Path], output: Path) -> str:
    """Write the records at `paths` to the DuckDB file `output`, and return one line about its content.

    An existing database is replaced as a whole. Records are read one after the other.

    Raises:
        ReportError: A path has no records, a file is not a run record, a run is given twice, or `output` cannot be
            written, or is a file that this function did not write.
    """
    if output.suffix != DATABASE_SUFFIX:
        raise ReportError("not-a-database", f"{output}: expected a file name that ends in {DATABASE_SUFFIX}")
    _refuse_path(output)
    if output.is_file() and not _is_ours(output):
        raise ReportError(
            "not-a-database",
            f"--output {output} is another file and would be overwritten; move it, or choose a new name",
        )
    files = record_files(paths)
    cells = 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".") as temporary:
            partial = Path(temporary).resolve() / "whole.duckdb"
            with duckdb.connect(str(partial), config={"memory_limit": _MEMORY}) as connection:
                connection.begin()
                for table, types in TABLES.items():
                    connection.execute(f"CREATE TABLE {table} ({_columns(types)})")
                for file, run in load_each(files):
                    _insert(connection, "runs", [_run_row(file, run)])
                    _insert(connection, "cells", (_cell_row(cell, run) for cell in run.cells))
                    _insert(connection, "statuses", map(_status_row, history_points(run)))
                    cells += len(run.cells)
                connection.commit()
            partial.replace(output)
    except OSError as error:
        raise ReportError.of_file(output, error) from error
    except duckdb.Error as error:
        raise ReportError("database-error", f"{output}: {error}") from error
    return f"{output}: {plural(len(files), 'run')}, {plural(cells, 'cell')}"


def _is_ours(database: Path) -> bool:
    """Whether it has the tables, of any version."""
    try:
        return {name for (name,) in query(database, "SHOW TABLES")[1]} >= {*TABLES}
    except ReportError:
        return False


def query(database: Path, sql: str) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """The column names and the rows of the result of `sql`, in the file that `write_database` wrote.

    The file is opened for reading only.

    Raises:
        ReportError: The file cannot be read, or DuckDB rejects `sql`.
    """
    if database.suffix != DATABASE_SUFFIX:
        write = command("report", "db", "RUNS", "-o", f"runs{DATABASE_SUFFIX}")
        raise ReportError("not-a-database", f"{database} is not a {DATABASE_SUFFIX} file; write one with `{write}`")
    if not os.path.isfile(database):
        raise ReportError("file-error", f"{database}: no such file")
    _refuse_path(database)
    try:
        with duckdb.connect(
            str(database.resolve()),
            read_only=True,
            # A name in SQL is one of the database; by default, DuckDB also looks among the variables of this module.
            config={"python_enable_replacements": False},
        ) as connection:
            cursor = cast("duckdb.DuckDBPyConnection | None", connection.execute(sql))
            if cursor is None:
                raise ReportError("invalid-sql", "the SQL is empty; expected a query, such as: SELECT * FROM statuses")
            return tuple(column[0] for column in cursor.description or ()), cursor.fetchall()
    except (duckdb.Error, ValueError, OverflowError) as error:
        # What follows points at a place in the SQL by carets below it, which one line cannot show.
        raise ReportError("invalid-sql", one_line(str(error).partition("\n\nLINE ")[0], max_chars=500)) from error


def read_points(database: Path) -> list[HistoryPoint]:
    """The statuses in a file that `write_database` wrote.

    Raises:
        ReportError: The file cannot be read, lacks the tables, or has other words or columns in them.
    """
    heads, rows = query(database, "SELECT * EXCLUDE started, runs.started FROM statuses JOIN runs USING (run)")
    try:
        return [_point(dict(zip(heads, row, strict=True))) for row in rows]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        write = command("report", "db", "RUNS", "-o", str(database))
        problem = f"its statuses are of another version ({error}); write it again with `{write}`"
        raise ReportError("not-a-database", f"{database}: {problem}") from error


def _point(row: Mapping[str, Any]) -> HistoryPoint:
    status = Status(
        Reached(row["reached"]),
        Stage(row["stage"]) if row["stage"] else None,
        tuple(Violation(each["clause"], Level(each["level"]), each["known"]) for each in row["violations"]),
        tuple((Verdict(verdict), number) for verdict, number in row["verdicts"].items()),
    )
    return HistoryPoint(
        row["run"],
        row["started"].replace(tzinfo=UTC),
        row["commit"],
        tuple((name, row[name]) for name in PACKAGES if row[name]),
        row["architecture"],
        Variant(row["subject"] or "", row["backend"], row["mode"] or ""),
        status,
    )


def _refuse_path(path: Path) -> None:
    """DuckDB reads what follows a question mark as parameters, and cannot open names that are not UTF-8."""
    if "?" in str(path.resolve()).encode(errors="replace").decode():
        raise ReportError(
            "invalid-name", f"{path}: rename it; DuckDB cannot open a path with ? or with characters that are not UTF-8"
        )


def _columns(types: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}" {kind}' for name, kind in types.items())


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Mapping[str, object]]) -> None:
    # As one JSON text: a hundred times as fast as a statement for each row.
    types = f"STRUCT({_columns(TABLES[table])})[]"
    sql = f"INSERT INTO {table} SELECT each.* FROM (SELECT unnest(?::JSON::{types}) AS each)"
    connection.execute(sql, [json.dumps(list(rows))])


def _run_row(file: Path, run: RunRecord) -> dict[str, object]:
    info, environment = run.run, run.environment
    return {
        "run": info.id,
        "started": _timestamp(info.started),
        "finished": _timestamp(info.finished) if info.finished else None,
        "complete": info.complete,
        "seed": None if info.seed is None else str(info.seed),  # JSON readers round large numbers
        "commit": info.commit,
        "options": {name: None if value is None else str(value) for name, value in info.options.items()},
        **{name: environment.packages.get(name) for name in PACKAGES},
        "packages": environment.packages,
        "python": environment.python,
        "platform": environment.platform,
        "cpu": environment.cpu,
        "cells": len(run.cells),
        "file": str(file).encode(errors="replace").decode(),
    }


def _cell_row(cell: CellRecord, run: RunRecord) -> dict[str, object]:
    plain = cell_to_json(cell)
    expected = plain.pop("expected") or {}
    del plain["fields"], plain["quantisation"], plain["notes"]
    own = {"run": run.run.id, "started": _timestamp(run.run.started)}
    return {**own, **plain, "reason": expected.get("reason"), "link": expected.get("link")}


def _status_row(point: HistoryPoint) -> dict[str, object]:
    return {
        "run": point.run,
        "started": point.started.replace(tzinfo=None).isoformat(),
        "architecture": point.architecture,
        "subject": point.variant.subject or None,
        "backend": point.variant.backend,
        "mode": point.variant.mode or None,
        "status": point.status.label,
        "reached": point.status.reached,
        "stage": point.status.stage,
        "violations": [dataclasses.asdict(each) for each in point.status.violations],
        "verdicts": dict(point.status.counts),
        "accepted": point.accepted,
        "judged": point.judged,
    }


def _timestamp(text: str) -> str:
    """A time of a record in UTC, as DuckDB's TIMESTAMP has it."""
    return when(text).replace(tzinfo=None).isoformat()
