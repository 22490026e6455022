"""Many run records as two views, `runs` and `cells`: DuckDB reads these files in place, and no others.

A thousand runs of 7000 cells are 3 GB of JSON; one pass over them takes 5 to 10 seconds on two busy cores, depending on
how many fields of a cell are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from conformance.core.text import one_line

from .errors import ReportError

#: Enough for any record; DuckDB's own limit of 16 MiB would be 30000 cells.
_LARGEST = 1 << 24
_RUN = """{
    schema_version: 'INTEGER',
    run: 'STRUCT(id VARCHAR, started VARCHAR, finished VARCHAR, complete BOOLEAN, options MAP(VARCHAR, VARCHAR),
                 seed HUGEINT, commit VARCHAR)',
    environment: 'STRUCT(python VARCHAR, platform VARCHAR, cpu VARCHAR, packages MAP(VARCHAR, VARCHAR))',
    cells: 'STRUCT(id VARCHAR)[]'
}"""
#: The cells' fields in the view, by how they are written in a record.
_CELL = {
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
    "expected": "STRUCT(reason VARCHAR, link VARCHAR)",
    "metrics": "MAP(VARCHAR, DOUBLE)",
    "duration_s": "DOUBLE",
    "replay": "VARCHAR",
    "bundle": "VARCHAR",
    "partition": """STRUCT(
        delegates MAP(VARCHAR, BIGINT), delegated MAP(VARCHAR, BIGINT), undelegated MAP(VARCHAR, BIGINT),
        program_bytes BIGINT, constant_bytes BIGINT, planned_bytes BIGINT, cache_bytes BIGINT,
        lower_s DOUBLE, emit_s DOUBLE)""",
}


class Database:
    """The records of some files; made by `opened`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
        self._connection = connection
        self._files = files

    def rows(self, sql: str) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """The column names and the rows of the result of `sql`.

        Raises:
            ReportError: DuckDB rejects it or one of the files.
        """
        try:
            cursor = self._connection.execute(sql)
            return tuple(column[0] for column in cursor.description or ()), cursor.fetchall()
        except (duckdb.Error, ValueError, OverflowError) as error:
            raise ReportError(one_line(str(error), max_chars=500)) from error

    def ask(self, sql: str) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """The same for SQL that a user typed: one query, which cannot change or write anything.

        Raises:
            ReportError: It is not one query, or DuckDB rejects it.
        """
        try:
            statements = self._connection.extract_statements(sql)
        except duckdb.Error as error:
            raise ReportError(one_line(str(error), max_chars=500)) from error
        # The connection may read these files, and a COPY could write them.
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ReportError("expected one SELECT, such as: SELECT verdict, count(*) FROM cells GROUP BY ALL")
        return self.rows(sql)

    def cells(self, *fields: str) -> str:
        """A table expression for the cells with these fields; other fields are not read."""
        wanted = ", ".join(f"{field} {_CELL[field]}" for field in fields)
        columns = f"{{run: 'STRUCT(id VARCHAR)', cells: 'STRUCT({wanted})[]'}}"
        named = ", ".join(f"cell.{field} AS {field}" for field in fields)
        return (
            f"(SELECT run, file, {named} FROM "
            f"(SELECT run.id AS run, filename AS file, unnest(cells) AS cell FROM {_read(self._files, columns)}))"
        )


def record_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The record files of `paths`: files, and for directories all `*.json` below them that are not hidden.

    Raises:
        ReportError: A path does not exist, or is a directory without records.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = (file for file in path.rglob("*.json") if not file.name.startswith("."))
            files_below = sorted(file for file in below if file.is_file())
            if not files_below:
                raise ReportError(f"no run records in {path}: it has no *.json")
            found += files_below
        elif path.is_file():
            found.append(path)
        elif path.exists():
            raise ReportError(f"{path} is not a regular file")
        else:
            raise ReportError(f"{path}: no such file or directory")
    files = tuple(dict.fromkeys(file.resolve() for file in found))
    for file in files:
        # DuckDB reads these as patterns, and would open other files.
        if set("*?[]{}") & set(str(file)) or not str(file).isprintable():
            raise ReportError(f"{one_line(str(file))}: rename it; the database cannot read names with * ? [ ] {{ }}")
    return files


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[Database]:
    """The records of `paths`, each of them checked.

    Raises:
        ReportError: A file cannot be read, is not a run record, or holds a run that another one holds too.
    """
    files = [str(file) for file in record_files(paths)]
    largest = max((Path(file).stat().st_size for file in files), default=0)
    with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
        database = Database(connection, files)
        for setting in (
            f"allowed_paths = {_texts(files)}",
            "python_enable_replacements = false",
            "TimeZone = 'UTC'",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            database.rows(f"SET {setting}")
        database.rows(f"SET VARIABLE largest = {max(largest * 2, _LARGEST)}")
        database.rows(_runs(files))
        _check(database, files)
        database.rows(_cells(files))
        yield database


def _read(files: Sequence[str], columns: str) -> str:
    return (
        f"read_json({_texts(files)}, format = 'unstructured', filename = true, columns = {columns}, "
        "maximum_object_size = getvariable('largest')::UINTEGER)"
    )


def _texts(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _runs(files: Sequence[str]) -> str:
    """A table, not a view: the check needs one pass over the files, which then serves every query of runs."""
    return f"""
        CREATE TABLE runs AS
        SELECT run.id AS run, CAST(try_cast(run.started AS TIMESTAMPTZ) AS TIMESTAMP) AS started,
               CAST(try_cast(run.finished AS TIMESTAMPTZ) AS TIMESTAMP) AS finished, run.complete AS complete,
               run.seed AS seed, run.commit AS commit,
               run.options AS options, environment.packages['transformers'] AS transformers,
               environment.packages['torch'] AS torch, environment.packages['executorch'] AS executorch,
               environment.packages AS packages, environment.python AS python, environment.platform AS platform,
               environment.cpu AS cpu, len(cells) AS cells, filename AS file,
               schema_version IS NOT DISTINCT FROM 1 AND run.id IS NOT NULL AND run.complete IS NOT NULL
                   AND started IS NOT NULL AND environment.packages IS NOT NULL
                   AND cells IS NOT NULL AS sound
        FROM {_read(files, _RUN)}"""


def _cells(files: Sequence[str]) -> str:
    fields = ", ".join(f'"{name}" {kind}' for name, kind in _CELL.items())
    plain = ", ".join(f'cell."{name}" AS "{name}"' for name in _CELL if name != "expected")
    columns = f"{{run: 'STRUCT(id VARCHAR, started VARCHAR)', cells: 'STRUCT({fields})[]'}}"
    return f"""
        CREATE VIEW cells AS
        SELECT run, started, {plain}, cell.expected.reason AS reason, cell.expected.link AS link FROM (
            SELECT run.id AS run, CAST(try_cast(run.started AS TIMESTAMPTZ) AS TIMESTAMP) AS started,
                   unnest(cells) AS cell
            FROM {_read(files, columns)})"""


def _check(database: Database, files: Sequence[str]) -> None:
    """Reading in place is lenient: a missing field is null, and another kind of file looks like an empty run."""
    _, unsound = database.rows("SELECT min(file) FROM runs WHERE NOT sound")
    if unsound[0][0] is not None:
        raise ReportError(f"{unsound[0][0]} is not a run record; `conformance report validate` names the error")
    _, twice = database.rows("SELECT run, min(file), max(file) FROM runs GROUP BY run HAVING count(*) > 1 ORDER BY run")
    if twice:
        run, first, last = map(str, twice[0])
        raise ReportError(f"run {one_line(run)} is given twice: {first} and {last}")
    _, read = database.rows("SELECT count(DISTINCT file) FROM runs")
    if read[0][0] != len(files):
        raise ReportError(f"only {read[0][0]} of {len(files)} files hold a run: the others are empty")
    database.rows("ALTER TABLE runs DROP COLUMN sound")
