"""Many runs: their history, and their DuckDB file, which holds all of each record and answers any SQL."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, ExpectedFailure, RunRecord
from report.analysis.status import variant_status
from report.analysis.variants import columns, variants
from report.database import TABLES, query, read_points, write_database
from report.loading import load_all
from report.terminal import table
from report.trends import history_points
from tests.report.harness import Report
from tests.report.sample_runs import RUNS
from tests.report.samples import HOSTILE, cell, partition, run, runs
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_FAIL = cell("PAR-1", Verdict.FAIL, Stage.EXECUTE, signature="execute:logits-differ")
_FIXTURE = cell("SEN-1", Verdict.FAIL, Stage.EAGER, subject=None, backend="eager", mode=None)


def _days(report: Report, *cells_of_days: tuple[CellRecord, ...]) -> Path:
    """A folder with a run of each day."""
    for day, cells in enumerate(cells_of_days, 1):
        report.record(run(*cells, name=f"run {day}", started=f"2026-11-{day:02}T10:00:00+02:00"))
    return report.directory


def _database(report: Report, *paths: Path) -> Path:
    """The database of `paths`; of all records without any."""
    database = report.directory / "runs.duckdb"
    ended = report("db", *(paths or [report.directory]), "-o", database)
    assert ended.code == 0, ended.err
    return database


def _history(report: Report, *arguments: str | Path) -> list[dict[str, Any]]:
    ended = report("history", *arguments, "--format", "json")
    assert ended.code == 0, ended.err
    plain: list[dict[str, Any]] = json.loads(ended.out)
    return plain


def _query(report: Report, database: Path, sql: str) -> list[dict[str, Any]]:
    ended = report("query", database, sql, "--format", "json")
    assert ended.code == 0, ended.err
    plain: list[dict[str, Any]] = json.loads(ended.out)
    return plain


# History


def test_history_shows_since_when_and_how_often_it_changed(report: Report) -> None:
    directory = _days(report, (cell(),), (_FAIL,), (cell(), cell(architecture="gpt2")), (_FAIL,), (_FAIL,))
    llama, gpt2 = _history(report, directory)
    assert (llama["architecture"], llama["backend"], llama["mode"]) == ("llama", "xnnpack", "decode")
    assert (llama["now"], llama["runs"], llama["changes"]) == ("wrong result", 5, 3)
    assert llama["since"] == "2026-11-04T08:00:00+00:00"  # 10:00 two hours east of Greenwich
    assert llama["shares"] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert gpt2["now"] == "decodes correctly"
    assert gpt2["since"] == gpt2["last"] == "2026-11-03T08:00:00+00:00"
    out = report("history", directory).out
    assert "✓ decodes correctly, last seen 2026-11-03" in out
    assert " █▁█▁▁ " in out


def test_history_shows_24_runs_and_counts_all(report: Report) -> None:
    directory = _days(report, *((cell(),) for _ in range(26)))
    (llama,) = _history(report, directory)
    assert (llama["runs"], len(llama["shares"])) == (26, 24)


def test_a_failing_fixture_blocks_every_variant(report: Report) -> None:
    other = cell(subject="transformers")
    directory = _days(report, (cell(), other), (_FIXTURE, cell(), other))
    found = {each["subject"]: (each["now"], each["changes"]) for each in _history(report, directory)}
    assert found == {"reference": ("blocked at eager", 1), "transformers": ("blocked at eager", 1)}


def test_a_fixture_has_a_history_of_its_own_only_without_programs(report: Report) -> None:
    passing = cell("SEN-1", subject=None, backend="eager", mode=None)
    directory = _days(report, (passing,), (passing, cell()))
    found = {each["backend"]: (each["subject"], each["runs"]) for each in _history(report, directory)}
    assert found == {"eager": ("", 1), "xnnpack": ("reference", 1)}


def test_history_of_one_architecture_shows_every_run(report: Report) -> None:
    directory = _days(report, (cell(),), (_FAIL,), (cell(architecture="gpt2"),))
    out = report("history", directory, "--architecture", "llama").out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["2026-11-02", "2026-11-01"]
    samples = json.loads(report("history", RUNS, "--architecture", "llama", "--format", "json").out)
    order = [(each["run"], each["variant"]) for each in samples]
    assert [name for name, _ in order] == sorted((name for name, _ in order), reverse=True)
    assert [variant for name, variant in order if name == "sample-2026-09"] == sorted(
        variant for name, variant in order if name == "sample-2026-09"
    )
    report.refused("unknown-name", "history", directory, "--architecture", "lama")


def test_history_names_short_commits_and_compiled_only(report: Report) -> None:
    lowered = cell("LOW-1", backend="vulkan")
    report.record(run(lowered, commit="c" * 40))
    ended = report("history", report.directory, "--architecture", "llama")
    assert f" {'c' * 12} " in ended.out
    assert " ◇ compiled only " in ended.out


def test_history_of_a_database_is_that_of_its_records(report: Report) -> None:
    database = _database(report, RUNS)
    for arguments in ((), ("--format", "json"), ("--architecture", "mamba")):
        assert report("history", database, *arguments) == report("history", RUNS, *arguments)


def test_history_of_records_needs_no_duckdb(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delitem(sys.modules, "report.database")
    assert report("history", RUNS).code == 0
    report.refused("missing-package", "history", report.directory / "runs.duckdb")


def test_history_reads_a_database_alone(report: Report) -> None:
    record = report.record(run(cell()))
    report.refused("conflicting-options", "history", record, _database(report, record))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE statuses SET reached = 'done'",
        "UPDATE statuses SET violations = NULL",
        "ALTER TABLE statuses DROP COLUMN stage",
    ],
)
def test_history_of_a_database_of_another_version_is_refused(report: Report, change: str) -> None:
    database = _database(report, report.record(run(cell())))
    with duckdb.connect(str(database)) as connection:
        connection.execute(change)
    report.refused("not-a-database", "history", database)


def test_a_table_needs_no_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert "llama" in table(("architecture",), [("llama",)])


# Databases


def test_a_database_has_runs_cells_and_statuses(report: Report) -> None:
    made = partition({"aten.linear.default": 9}, {"aten.view_copy.default": 3})
    known = cell("LOW-4", Verdict.EXPECTED_FAILURE, Stage.LOWER, expected=ExpectedFailure("two copies", "https://x"))
    program = cell("LOW-1", partition=made, metrics={"lower_s": 2.5}, bundle="build/x")
    record = report.record(run(program, cell(), known, commit="c" * 40, started="2026-11-01T10:00:00+02:00"))
    database = report.directory / "new" / "runs.duckdb"
    assert write_database([record], database) == f"{database}: 1 run, 3 cells"
    assert [path.name for path in database.parent.iterdir()] == ["runs.duckdb"]
    (row,) = _query(report, database, "SELECT * FROM runs")
    assert row == {
        "run": "head",
        "started": "2026-11-01 08:00:00",
        "finished": "2026-11-01 08:00:00",
        "complete": True,
        "seed": None,
        "commit": "c" * 40,
        "options": {"subject": "reference"},
        "transformers": "5.23.0",
        "torch": "2.13.0",
        "executorch": "1.5.1",
        "packages": {"torch": "2.13.0", "transformers": "5.23.0", "executorch": "1.5.1"},
        "python": "3.11.7",
        "platform": "Linux",
        "cpu": "a processor",
        "cells": 3,
        "file": str(record),
    }
    (row,) = _query(
        report,
        database,
        """SELECT id, started, bundle, metrics['lower_s'] AS s, partition.planned_bytes AS planned,
           partition.undelegated['aten.view_copy.default'] AS "left" FROM cells WHERE clause = 'LOW-1'""",
    )
    assert row == {
        "id": program.id,
        "started": "2026-11-01 08:00:00",
        "bundle": "build/x",
        "s": 2.5,
        "planned": 3072,
        "left": 3,
    }
    (row,) = _query(report, database, "SELECT * FROM statuses")
    assert row == {
        "run": "head",
        "started": "2026-11-01 08:00:00",
        "architecture": "llama",
        "subject": "reference",
        "backend": "xnnpack",
        "mode": "decode",
        "status": "decodes correctly",
        "reached": "decodes correctly",
        "stage": None,
        "violations": [{"clause": "LOW-4", "level": "should", "known": True}],
        "verdicts": {"expected-failure": 1, "pass": 2},
        "accepted": 3,
        "judged": 3,
    }
    (row,) = _query(report, database, "SELECT reason, link FROM cells WHERE clause = 'LOW-4'")
    assert row == {"reason": "two copies", "link": "https://x"}


def test_statuses_in_a_database_are_those_of_the_report(report: Report) -> None:
    database = _database(report, RUNS)
    expected = [
        (record.run.id, architecture, variant, variant_status(columns(cells), variant))
        for record in load_all(sorted(RUNS.glob("*.json")))
        for architecture in sorted({each.architecture for each in record.cells})
        for cells in [[each for each in record.cells if each.architecture == architecture]]
        for variant in variants(cells)
    ]
    found = [(each.run, each.architecture, each.variant, each.status) for each in read_points(database)]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert {(each.status.counts, each.status.rank) for each in read_points(database)} == {
        (status.counts, status.rank) for *_, status in expected
    }


def test_a_database_counts_as_many_that_decode_as_the_site(report: Report) -> None:
    newest = RUNS / "2026-11.json"
    assert report("build", newest, "-o", report.directory / "site").code == 0
    index = json.loads((report.directory / "site/index.json").read_bytes())
    sql = "SELECT subject, backend, mode, status, count(*) AS number FROM statuses GROUP BY ALL"
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in _query(report, _database(report, newest), sql):
        found.setdefault((row["subject"], row["backend"], row["mode"]), {})[row["status"]] = row["number"]
    assert found == {(each["subject"], each["backend"], each["mode"]): each["statuses"] for each in index["headlines"]}
    assert any(each["decode_correctly"] for each in index["headlines"])


def test_a_database_is_replaced_as_a_whole(report: Report) -> None:
    database = _database(report, report.record(run(cell(), name="old")))
    before = database.read_bytes()
    bad = report.directory / "bad.json"
    bad.write_text("{}")
    good = report.record(run(cell(), name="new"))
    report.refused("invalid-record", "db", good, bad, "-o", database)
    assert database.read_bytes() == before
    assert "runs.duckdb: 1 run, 1 cell" in report("db", good, "-o", database).out
    assert _query(report, database, "SELECT run FROM runs") == [{"run": "new"}]
    assert not [path for path in report.directory.iterdir() if path.name.startswith(".")]


def test_a_file_that_is_not_one_of_its_databases_is_not_replaced(report: Report) -> None:
    record, database = report.record(run(cell())), report.directory / "notes.duckdb"
    database.write_text("keep")
    report.refused("not-a-database", "db", record, "-o", database)
    assert database.read_text() == "keep"
    database.unlink()
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE runs (mine VARCHAR)")
    before = database.read_bytes()
    report.refused("not-a-database", "db", record, "-o", database)
    assert database.read_bytes() == before


def test_only_a_name_of_a_database_is_written(report: Report) -> None:
    record = report.record(run(cell()))
    before = record.read_bytes()
    report.refused("not-a-database", "db", record, "-o", record)
    assert record.read_bytes() == before
    folder = report.directory / "folder.duckdb"
    folder.mkdir()
    report.refused("file-error", "db", record, "-o", folder)


@pytest.mark.parametrize("name", ["history", "db"])
def test_what_cannot_be_read_is_refused_in_a_sentence(report: Report, name: str) -> None:
    options = ["-o", str(report.directory / "runs.duckdb")] if name == "db" else []
    report.refused("no-records", name, report.directory, *options)
    report.refused("file-error", name, report.directory / "none", *options)
    report.refused("file-error", name, "x" * 300, *options)
    record = report.record(run(cell()))
    (report.directory / "again.json").write_bytes(record.read_bytes())
    report.refused("run-given-twice", name, report.directory, *options)
    assert report(name, record, record, *options).code == 0  # one file, named twice
    record.write_text(record.read_text()[:-20])
    report.refused("invalid-record", name, record, *options)


@pytest.mark.parametrize(
    "name", ["it's; DROP TABLE runs --", '"*[a]{b}', "a\n\x1b[31mb", "$sql", "ß" * 100, ":memory:", "md:x", "~"]
)
def test_names_of_files_are_only_names(report: Report, name: str) -> None:
    folder = report.directory / f"f{name}"
    folder.mkdir()
    record = folder / f"{name}.json"
    report.record(run(cell())).rename(record)
    database = folder / f"{name}.duckdb"
    write_database([folder], database)
    assert sorted(path.name for path in folder.iterdir()) == sorted([record.name, database.name])
    assert report("history", record).code == report("history", database).code == 0
    _, rows = query(database, "SELECT file FROM runs")
    assert rows == [(str(record),)]


@pytest.mark.parametrize("name", ["what?", "\udc80"])
def test_names_that_duckdb_cannot_open_are_only_refused_for_databases(report: Report, name: str) -> None:
    record = report.directory / f"{name}.json"
    report.record(run(cell())).rename(record)
    _, rows = query(_database(report, record), "SELECT file FROM runs")
    assert rows == [(str(record).replace("\udc80", "?"),)]
    assert report("history", record).code == 0
    other = report.directory / f"{name}.duckdb"
    report.refused("invalid-name", "db", record, "-o", other)
    other.touch()
    report.refused("invalid-name", "query", other, "SELECT 1")


# Queries


def test_queries_give_tables_and_json(report: Report) -> None:
    database = _database(report, _days(report, (cell(metrics={"lower_s": 2.5}),), (_FAIL, cell("PAR-3"))))
    sql = "SELECT runs.run, torch, count(*) AS n, max(metrics['lower_s']) AS s FROM cells JOIN runs USING (run) "
    assert _query(report, database, sql + "GROUP BY ALL ORDER BY ALL") == [
        {"run": "run 1", "torch": "2.13.0", "n": 1, "s": 2.5},
        {"run": "run 2", "torch": "2.13.0", "n": 2, "s": None},
    ]
    table = report("query", database, "SELECT id, verdict FROM cells ORDER BY ALL").out.splitlines()
    assert table[0].split() == ["id", "verdict"]
    assert table[2].split() == ["llama/reference/xnnpack/decode/PAR-1", "fail"]
    assert _query(report, database, "SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS b") == [{"a": 1, "a_2": 2, "b": "nan"}]


def test_several_statements_give_the_rows_of_the_last(report: Report) -> None:
    database = _database(report, report.record(run(cell())))
    sql = "CREATE TEMP TABLE mine AS SELECT verdict FROM cells; SELECT * FROM mine"
    assert _query(report, database, sql) == [{"verdict": "pass"}]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE runs",
        "INSERT INTO runs (run) VALUES ('x')",
        "SELECT nothing FROM cells",
        "SELECT * FROM config",
        "SELEC",
        "SELECT '",
        "\x00",
        "",
        " -- nothing",
        "SELECT 'x'::INTEGER",
    ],
)
def test_what_duckdb_rejects_is_one_sentence(report: Report, sql: str) -> None:
    database = _database(report, report.record(run(cell())))
    before = database.read_bytes()
    report.refused("invalid-sql", "query", database, sql)
    assert database.read_bytes() == before


def test_an_error_has_no_carets_that_point_at_nothing(report: Report) -> None:
    database = report.directory / "runs.duckdb"
    assert report("db", report.record(run(cell())), "-o", database).code == 0
    report.refused("invalid-sql", "query", database, "SELEC 1")
    report.refused("invalid-sql", "query", database, "SELECT verdit FROM cells")


def test_help_names_every_column(report: Report) -> None:
    text = report("query", "--help").out
    for name, types in TABLES.items():
        _, _, listed = text.partition(f"  {name}: ")
        assert set(types) <= set(re.findall(r"\w+", listed.partition(":")[0]))


def test_only_databases_are_queried(report: Report) -> None:
    record = report.record(run(cell()))
    report.refused("not-a-database", "query", record, "SELECT 1")
    database = report.directory / "runs.duckdb"
    report.refused("file-error", "query", database, "SELECT 1")
    database.write_text("not a database")
    report.refused("invalid-sql", "query", database, "SELECT 1")
    report.refused("invalid-sql", "history", database)


@pytest.mark.parametrize("text", [*HOSTILE, "'); DROP TABLE statuses; --"])
def test_hostile_texts_are_only_text(report: Report, text: str) -> None:
    failing = cell(architecture=text, subject=text, verdict=Verdict.FAIL, signature=text, message="\x1b[31m[red]x")
    record = report.record(run(failing, name=text))
    database = _database(report, record)
    name = f"--architecture={text}"
    for arguments in (
        ("history", record),
        ("history", record, name),
        ("history", database, name),
        ("query", database, "SELECT * FROM cells"),
        ("query", database, "SELECT * FROM statuses"),
    ):
        ended = report(*arguments)
        assert ended.code == 0, ended.err
        assert all(char.isprintable() or char == "\n" for char in ended.out)
    assert "[red]x" in report("query", database, "SELECT message FROM cells").out
    _, rows = query(database, "SELECT run, architecture, subject FROM statuses")
    assert rows == [(text, text, text)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(runs, min_size=1, max_size=4))
def test_a_database_holds_all_of_each_record(report: Report, generated: list[RunRecord]) -> None:
    named = [
        run(*each.cells, name=f"run {number}", started=f"2026-11-0{number + 1}T10:00:00", commit=each.run.commit)
        for number, each in enumerate(generated)
    ]
    database = _database(report, *map(report.record, named))
    _, rows = query(database, "SELECT run, id, subject, verdict, stage, signature, message, reason, metrics FROM cells")
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert found == {
        (each.run.id, own.id): (
            own.subject,
            own.verdict,
            own.stage,
            own.signature,
            own.message,
            own.expected.reason if own.expected else None,
            own.metrics,
        )
        for each in named
        for own in each.cells
    }
    assert len(rows) == len(found)
    points = [point for each in named for point in history_points(each)]
    assert sorted(map(repr, read_points(database))) == sorted(map(repr, points))
    assert {point.architecture for point in points} == {own.architecture for each in named for own in each.cells}


def test_an_option_of_any_size_is_kept_as_text(report: Report) -> None:
    record = report.record(run(cell()))
    whole = json.loads(record.read_bytes())
    whole["run"]["options"] = {"limit": 10**40, "arch": None}
    whole["run"]["seed"] = 2**120 + 1
    record.write_text(json.dumps(whole))
    _, rows = query(_database(report, record), "SELECT options, seed FROM runs")
    assert rows == [({"limit": str(10**40), "arch": None}, 2**120 + 1)]


def test_a_seed_that_duckdb_cannot_hold_is_refused(report: Report) -> None:
    record = report.record(run(cell()))
    record.write_text(record.read_text().replace('"seed":null', f'"seed":{10**40}'))
    database = report.directory / "runs.duckdb"
    with refused("database-error"):
        write_database([record], database)
    assert not database.exists()
