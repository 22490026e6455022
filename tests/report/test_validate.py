"""Validation: a run record is described, and what is wrong with any other file is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.records.journal import Journal
from conformance.records.run import write_run
from report.validation import validate_record
from tests.report.harness import Report
from tests.report.sample_runs import RUNS
from tests.report.sample_runs import write as write_samples
from tests.report.samples import cell, run
from tests.support.messages import printed, refused

pytestmark = pytest.mark.unit


def test_the_sample_runs_are_what_their_command_writes(tmp_path: Path) -> None:
    write_samples(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == {
        path.name: path.read_bytes() for path in RUNS.glob("*.json")
    }


def test_sample_runs_are_valid(report: Report) -> None:
    ended = report("validate", *sorted(RUNS.glob("*.json")))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"{RUNS / '2026-11.json'}: a run record of 1248 cells"


def test_all_records_in_a_folder_are_validated(report: Report) -> None:
    ended = report("validate", RUNS)
    assert (ended.code, len(ended.out.splitlines())) == (0, 3)
    (report.directory / "empty").mkdir()
    ended = report("validate", report.directory / "empty", RUNS / "2026-11.json")
    assert (ended.code, len(ended.out.splitlines())) == (1, 1)
    printed(ended.err, "no-records")


def test_the_folder_that_a_run_writes_is_read_without_its_bundles(report: Report) -> None:
    record = report.record(run(cell()))
    bundle = report.directory / "failures" / "llama--reference--xnnpack--decode--PAR-1"
    bundle.mkdir(parents=True)
    for name in ("bundle.json", "divergence.json", "calls.jsonl"):
        (bundle / name).write_text("{}")
    assert report("validate", report.directory) == (0, f"{record}: a run record of 1 cell\n", "")
    for command in (("history",), ("db", "-o", report.directory / "runs.duckdb")):
        assert report(*command, report.directory).code == 0
    ended = report("validate", bundle.parent)
    assert "outside of failure bundles" in printed(ended.err, "no-records")
    (report.directory / "bad.json").write_text("{}")
    assert "bad.json" in report.refused("invalid-record", "history", report.directory)


def test_compressed_records_and_journals_in_a_folder_are_read(report: Report) -> None:
    record, compressed, journal = (report.directory / name for name in ("a.json", "b.json.gz", "c.jsonl"))
    for path in (record, compressed):
        write_run(path, run(cell(), name=path.name))
    for path in (journal, report.directory / "a.jsonl"):
        Journal(path, run(name=path.name, complete=False).run, run().environment, cells=[cell()])
    lines = [f"{path}: a run record of 1 cell\n" for path in (record, compressed, journal)]
    assert report("validate", report.directory) == (0, "".join(lines), "")
    assert report("db", report.directory, "-o", report.directory / "runs.duckdb").out.endswith(": 3 runs, 3 cells\n")


def test_a_bad_record_is_named_beside_good_ones(report: Report) -> None:
    good, bad = report.record(run(cell())), report.directory / "bad.json"
    bad.write_text(good.read_text().replace('"pass"', '"passed"'))
    ended = report("validate", good, bad)
    assert ended.code == 1
    assert ended.out == f"{good}: a run record of 1 cell\n"
    assert str(bad) in printed(ended.err, "invalid-record")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("schema_version",), 2, "schema_version"),
        (("run", "started"), "yesterday", "run.started"),
        (("run", "complete"), "true", "run.complete"),
        (("run", "seed"), "7", "run.seed"),
        (("cells",), None, "cells"),
        (("cells", 0), None, "cells.0"),
        (("cells", 0, "architecture"), None, "cells.0.architecture"),
        (("cells", 0, "architecture"), "gpt2", "cells.0.id"),
        (("cells", 0, "stage"), "later", "cells.0.stage"),
        (("cells", 0, "duration_s"), "1.5", "cells.0.duration_s"),
        (("cells", 0, "metrics"), {"lower_s": True}, "cells.0.metrics.lower_s"),
        (("cells", 0, "unknown"), 1, "cells.0.unknown"),
    ],
)
def test_each_damage_to_a_record_is_named(report: Report, path: tuple[str | int, ...], value: Any, named: str) -> None:
    record = report.record(run(cell()))
    whole = json.loads(record.read_bytes())
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    record.write_text(json.dumps(whole))
    with refused("invalid-record") as caught:
        validate_record(record)
    assert f": {named}: " in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"7", b"[]", b"{}", b"\x00\xff", b"[" * 100_000])
def test_other_content_is_not_a_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with refused("invalid-record"):
        validate_record(path)


def test_a_file_that_does_not_exist_is_named(report: Report) -> None:
    path = report.directory / "none.json"
    ended = report("validate", path)
    assert ended.code == 1
    assert str(path) in printed(ended.err, "file-error")
