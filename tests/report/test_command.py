"""`python -m report` as people call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from conformance.records.run import RunRecord, cell_to_json, write_run
from tests.report.harness import Report
from tests.report.samples import cell, partition, run

pytestmark = pytest.mark.unit


def _write(path: Path, given: RunRecord) -> Path:
    write_run(path, given)
    return path


def test_site_is_built_without_torch(tmp_path: Path) -> None:
    record = _write(tmp_path / "run.json", run(cell()))
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['executorch'] = None\n"
        f"sys.argv = ['report', 'build', {str(record)!r}, '-o', {str(tmp_path / 'site')!r}]\n"
        "from report.__main__ import main; sys.exit(main())"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(tmp_path / "site" / "index.html")
    assert (tmp_path / "site" / "architectures" / "llama.html").exists()


_GOOD = {
    "schema_version": 1,
    "run": {"id": "1", "started": "2026-11-23", "finished": None, "complete": False, "options": {}, "seed": None},
    "environment": {"python": "3", "platform": "p", "cpu": "c", "packages": {}},
    "cells": [],
}


def _lowered(**changes: object) -> dict[str, object]:
    plain = cell_to_json(cell("LOW-1", partition=partition({}, {})))
    return {**plain, "partition": {**plain["partition"], **changes}}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        json.dumps({**_GOOD, "schema_version": 2}),
        json.dumps({**_GOOD, "cells": [{"id": "x"}]}),
        json.dumps({**_GOOD, "cells": [_lowered(program_bytes=-1)]}),
        json.dumps({**_GOOD, "cells": [_lowered(delegated={"aten.x": 1 << 60})]}),
        json.dumps({**_GOOD, "cells": [_lowered(lower_s=float("nan"))]}),
        json.dumps({**_GOOD, "run": {**_GOOD["run"], "started": "yesterday"}}),  # type: ignore[dict-item]
        "\x00\xff",
    ],
)
def test_a_file_that_is_not_a_record_is_refused_in_a_sentence(report: Report, tmp_path: Path, text: str | None) -> None:
    record = tmp_path / "run.json"
    if text is not None:
        record.write_text(text)
    report.refused("file-error" if text is None else "invalid-record", "build", record, "-o", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_folder_is_not_a_record(report: Report) -> None:
    folder = report.directory / "conformance"
    folder.mkdir()
    for command in (("build", folder, "-o", report.directory / "site"), ("summary", folder)):
        assert f"pass a run record, such as {folder / 'run.json'}" in report.refused("file-error", *command)


def test_a_record_that_contradicts_itself_is_refused(report: Report, tmp_path: Path) -> None:
    record = _write(tmp_path / "run.json", run(cell()))
    plain = json.loads(record.read_text())
    plain["cells"] *= 2
    record.write_text(json.dumps(plain))
    report.refused("invalid-record", "build", record, "-o", tmp_path / "site")


def test_a_terminal_without_the_signs_gets_their_codes(tmp_path: Path) -> None:
    record = _write(tmp_path / "run.json", run(cell()))
    command = [sys.executable, "-m", "report", "summary", str(record)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(b"## \\u2713")


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    cells = (cell(architecture=f"a{number}") for number in range(600))  # 200 kB as JSON; a pipe holds 64 KiB
    record = _write(tmp_path / "run.json", run(*cells))
    command = f"{sys.executable} -m report history --format json {record} | head -1"
    ended = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
