"""Files that no run and no build has written: refused in a sentence, before they fill the memory or stop the reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from report.site import MANIFEST
from tests.report.harness import Report
from tests.report.samples import cell, run

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "command",
    [
        ("build", "{}", "-o", "site"),
        ("summary", "{}"),
        ("gate", "{}", "sound"),
        ("gate", "sound", "{}"),
        ("merge", "sound", "{}", "-o", "out.json"),
        ("history", "{}"),
        ("db", "{}", "-o", "runs.duckdb"),
    ],
    ids=lambda command: command[0],
)
def test_hostile_names_of_records_are_refused(report: Report, command: tuple[str, ...]) -> None:
    pipe = report.directory / "pipe"
    os.mkfifo(pipe)
    named = {"sound": str(report.record(run(cell()))), "site": str(report.directory / "site")}
    named["runs.duckdb"] = str(report.directory / "runs.duckdb")
    named["out.json"] = str(report.directory / "out.json")
    for path in (Path("/dev/zero"), pipe):
        report.refused("file-error", *(named.get(part, str(path) if part == "{}" else part) for part in command))


def test_a_hostile_record_is_not_validated(report: Report) -> None:
    ended = report("validate", "/dev/zero")
    assert (ended.code, ended.out) == (1, "")
    assert "not a regular file" in ended.err


def test_a_hostile_manifest_is_refused(report: Report) -> None:
    site = report.directory / "site"
    site.mkdir()
    record = report.record(run(cell()))
    for content in ("[" * 100_000, '["../../elsewhere"]', '["a", 7]', "{}x"):
        (site / MANIFEST).write_text(content)
        report.refused("damaged-site", "build", record, "-o", site)
