"""Many runs read in place: nothing is left out, nothing beside the files is reached, nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, RunRecord
from tests.report.harness import Report
from tests.report.samples import HOSTILE, cell, partition, run, runs

pytestmark = pytest.mark.unit


def _days(report: Report, *cells_of_days: tuple[CellRecord, ...]) -> Path:
    """A directory with a run of each day."""
    for day, cells in enumerate(cells_of_days, 1):
        report.record(run(*cells, name=f"run {day}", started=f"2026-11-{day:02}T10:00:00+02:00"))
    return report.directory


_FAIL = cell("PAR-1", Verdict.FAIL, Stage.EXECUTE)
_FIXTURE = cell("SEN-1", Verdict.FAIL, Stage.EAGER, subject=None, backend="eager", mode=None)


def _history(report: Report, directory: Path) -> list[dict[str, object]]:
    ended = report("history", directory, "--format", "json")
    assert ended.code == 0, ended.err
    plain: list[dict[str, object]] = json.loads(ended.out)
    return plain


def test_history_says_since_when_and_how_often_it_changed(report: Report) -> None:
    directory = _days(report, (cell(),), (_FAIL,), (cell(), cell(architecture="gpt2")), (_FAIL,), (_FAIL,))
    llama, gpt2 = _history(report, directory)
    assert (llama["architecture"], llama["now"], llama["runs"]) == ("llama", "fails at execute", 5)
    assert llama["since"] == "2026-11-04T08:00:00"  # 10:00 two hours east of Greenwich
    assert llama["changes"] == 3
    assert llama["shares"] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert (gpt2["now"], gpt2["since"], gpt2["last"]) == ("passes", "2026-11-03T08:00:00", "2026-11-03T08:00:00")
    assert "✓ passes, last seen 2026-11-03" in report("history", directory).out


def test_a_fixture_spoils_what_its_subjects_come_to_and_cannot_hold_for_them(report: Report) -> None:
    other = cell(subject="transformers", verdict=Verdict.NOT_APPLICABLE)
    held = cell("SEN-1", subject=None, backend="eager", mode=None)
    directory = _days(report, (held, other), (_FIXTURE, other, cell()))
    found = {each["subject"]: each for each in _history(report, directory)}
    assert {name: each["now"] for name, each in found.items()} == {
        "transformers": "fails at eager",
        "reference": "fails at eager",
    }
    assert found["transformers"]["changes"] == 1
    assert report("history", _days(report, (held,)), "--architecture", "llama").code == 2  # run 1 again


def test_history_of_one_architecture_shows_every_run(report: Report) -> None:
    directory = _days(report, (cell(),), (_FAIL,), (cell(architecture="gpt2"),))
    out = report("history", directory, "--architecture", "llama").out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["2026-11-02", "2026-11-01"]
    assert "no run has an architecture 'lama'" in report.refused("history", directory, "--architecture", "lama")


def test_queries(report: Report) -> None:
    directory = _days(report, (cell(metrics={"lower_s": 2.5}),), (_FAIL, cell("PAR-3")))
    sql = "SELECT runs.run, torch, count(*) AS n, max(metrics['lower_s']) AS s FROM cells JOIN runs USING (run) "
    ended = report("query", sql + "GROUP BY ALL ORDER BY ALL", directory, "--format", "json")
    assert json.loads(ended.out) == [
        {"run": "run 1", "torch": "2.13.0", "n": 1, "s": 2.5},
        {"run": "run 2", "torch": "2.13.0", "n": 2, "s": None},
    ]
    table = report("query", "SELECT id, verdict FROM cells ORDER BY ALL", directory).out.splitlines()
    assert table[0].split() == ["id", "verdict"]
    assert table[2].split() == ["llama/reference/xnnpack/decode/PAR-1", "fail"]
    doubled = report("query", "SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS b", directory, "--format", "json").out
    assert json.loads(doubled) == [{"a": 1, "a_2": 2, "b": "nan"}]


def test_commits_and_partitions_are_in_the_views(report: Report) -> None:
    made = partition({"aten.linear.default": 9}, {"aten.view_copy.default": 3})
    report.record(run(cell("LOW-1", partition=made), name="new", commit="c" * 40))
    report.record(run(cell("LOW-1", bundle="build/x"), name="old", started="2026-11-01T10:00:00+00:00"))
    sql = """SELECT runs.run, commit, bundle, partition.planned_bytes AS planned,
             partition.undelegated['aten.view_copy.default'] AS "left"
             FROM cells JOIN runs USING (run) ORDER BY ALL"""
    assert json.loads(report("query", sql, report.directory, "--format", "json").out) == [
        {"run": "new", "commit": "c" * 40, "bundle": None, "planned": 3072, "left": 3},
        {"run": "old", "commit": None, "bundle": "build/x", "planned": None, "left": None},
    ]
    listed = report("history", report.directory, "--architecture", "llama")
    assert f" {'c' * 12} " in listed.out


def test_history_knows_what_was_only_lowered(report: Report) -> None:
    own = (cell("LOW-1", backend="vulkan"), cell("PAR-1", backend="exported"))
    directory = _days(report, own, (*own, cell("PAR-1")), (cell("EXP-1", backend="exported"),))
    states = [line.split()[-4:-2] for line in report("history", directory, "--architecture", "llama").out.splitlines()]
    assert states[2:] == [["◇", "exported"], ["✓", "passes"], ["◇", "lowered"]]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{record}' (USE_TMP_FILE false)",
        "COPY cells TO '{outside}'",
        "SELECT 1; COPY (SELECT 1) TO '{outside}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}'",
        "ATTACH '{outside}'",
        "EXPORT DATABASE '{outside}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "DROP TABLE runs",
        "CREATE TABLE x AS SELECT 1",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_json('{directory}/*')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{directory}/*')",
        "SELECT * FROM read_text('https://example.org/')",
        "SELECT * FROM sql",
        "SELECT nothing FROM cells",
        "",
        "SELEC",
        "\x00",
    ],
)
def test_a_query_reaches_and_changes_nothing_else(report: Report, sql: str) -> None:
    record = report.record(run(cell()))
    secret, outside = report.directory / "secret.csv", report.directory / "outside"
    secret.write_text("a secret\n1\n")
    before = record.read_bytes()
    told = report.refused(
        "query", sql.format(record=record, secret=secret, outside=outside, directory=report.directory), record
    )
    assert "a secret" not in told
    assert record.read_bytes() == before
    assert not outside.exists()
    assert sorted(path.name for path in report.directory.iterdir()) == ["record-1.json", "secret.csv"]


_GOOD = {
    "schema_version": 1,
    "run": {"id": "1", "started": "2026-11-23", "finished": None, "complete": False, "options": {}, "seed": None},
    "environment": {"python": "3", "platform": "p", "cpu": "c", "packages": {}},
    "cells": [],
}
_CELL = {"architecture": "llama", "subject": "reference", "verdict": "pass", "stage": None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "7",
        "null",
        json.dumps(_GOOD)[:-20],
        json.dumps(_GOOD) * 2,
        json.dumps({**_GOOD, "schema_version": 2}),
        json.dumps({**_GOOD, "cells": {}}),
        json.dumps({**_GOOD, "cells": None}),
        json.dumps({**_GOOD, "run": {**_GOOD["run"], "started": "yesterday"}}),  # type: ignore[dict-item]
        json.dumps({**_GOOD, "cells": [{**_CELL, "verdict": "passed"}]}),
        json.dumps({**_GOOD, "cells": [{**_CELL, "stage": "later"}]}),
        json.dumps({**_GOOD, "cells": [{**_CELL, "architecture": None}]}),
        json.dumps({**_GOOD, "cells": [None]}),
        "\x00\xff",
    ],
)
def test_one_bad_file_among_many_is_refused_and_not_left_out(report: Report, text: str) -> None:
    directory = _days(report, (cell(),), (cell(),))
    (directory / "bad.json").write_text(text)
    report.refused("history", directory)


def test_what_cannot_be_read_is_refused_in_a_sentence(report: Report) -> None:
    assert "it has no *.json" in report.refused("history", report.directory)
    assert "no such file or directory" in report.refused("history", report.directory / "none")
    record = report.record(run(cell()))
    twice = report.directory / "again.json"
    twice.write_bytes(record.read_bytes())
    assert "run head is given twice" in report.refused("history", report.directory)
    twice.rename(report.directory / "[a].json")
    assert "cannot read names with" in report.refused("history", report.directory)


def test_names_of_files_are_only_names(report: Report) -> None:
    odd = report.directory / "it's; DROP TABLE runs --.json"
    report.record(run(cell())).rename(odd)
    assert report("history", odd).code == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_text_and_nothing_else(report: Report, text: str) -> None:
    failing = cell(architecture=text, subject=text, verdict=Verdict.FAIL, signature=text, message="\x1b[31m[red]x")
    record = report.record(run(failing, name=text))
    name = f"--architecture={text}"
    for arguments in (("history", record), ("history", record, name), ("query", "SELECT * FROM cells", record)):
        ended = report(*arguments)
        assert ended.code == 0, ended.err
        assert all(char.isprintable() or char == "\n" for char in ended.out)
    assert "[red]x" in report("query", "SELECT message FROM cells", record).out


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(runs, min_size=1, max_size=4))
def test_the_database_reads_what_a_record_says(report: Report, generated: list[RunRecord]) -> None:
    paths = [
        report.record(run(*each.cells, name=f"run {number}", started=f"2026-11-0{number + 1}T10:00:00"))
        for number, each in enumerate(generated)
    ]
    fields = "run, id, subject, verdict, stage, signature, message, reason, metrics"
    ended = report("query", f"SELECT {fields} FROM cells", *paths, "--format", "json")
    assert ended.code == 0, ended.err
    found = {(each["run"], each["id"]): each for each in json.loads(ended.out)}
    assert len(found) == sum(len(each.cells) for each in generated)
    for number, each in enumerate(generated):
        for own in each.cells:
            row = found[f"run {number}", own.id]
            assert (row["subject"], row["verdict"], row["stage"]) == (own.subject, own.verdict, own.stage)
            assert (row["signature"], row["message"]) == (own.signature, own.message)
            assert row["reason"] == (own.expected.reason if own.expected else None)
            assert row["metrics"] == own.metrics
    listed = {each["architecture"] for each in json.loads(report("history", *paths, "--format", "json").out)}
    assert listed == {own.architecture for each in generated for own in each.cells}
