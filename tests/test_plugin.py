"""The plugin as people use it: options, records, exit codes, interruption. Each run is a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conformance.records import Environment, RunInfo, RunWriter, load_run, run_schema
from conformance.verdicts import Verdict
from tests.harness import suite


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--arch", "lama"], "no architecture 'lama'; did you mean 'llama'?"),
        (["--backend", "xnpack"], "no backend 'xnpack'; did you mean 'xnnpack'?"),
        (["--mode", "dynamics"], "no mode 'dynamics'; did you mean 'dynamic'?"),
        (["--clause", "PARITY"], "no clause 'PARITY'; did you mean 'PAR'?"),
        (["--clause", "EXP-4"], "the suite has no check yet for EXP-4"),
        (["--tier", "cor"], "no tier 'cor'; did you mean 'core'?"),
        (["--subject", "referense"], "no subject 'referense'; did you mean 'reference'?"),
        (["--subject", "tests.faulty:off_by_on"], "no callable 'off_by_on'; did you mean 'off_by_one'?"),
        (["--hypothesis-seed", "any"], "--hypothesis-seed: 'any' is not a whole number"),
        (["--examples", "none"], "'none' is not a whole number above 0"),
    ],
)
def test_typo_is_answered_and_nothing_runs(tmp_path: Path, arguments: list[str], told: str) -> None:
    record = tmp_path / "run.json"
    ended = suite(*arguments, "--record", str(record))
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert told in ended.stderr + ended.stdout
    assert not record.exists()


def test_good_run_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    junit = tmp_path / "junit.xml"
    ended = suite(
        *("--arch", "gpt2,llama", "--backend", "exported", "--mode", "decode", "--clause", "EXP,SEN"),
        *("--record", str(record), f"--junitxml={junit}"),
    )
    assert ended.returncode == 0, ended.stdout
    assert "reference; torch" in ended.stdout
    assert "14 cells: 14 pass" in ended.stdout
    plain = json.loads(record.read_text())
    jsonschema.validate(plain, run_schema())
    run = load_run(record)
    assert run.run.complete
    assert run.run.finished
    assert {cell.verdict for cell in run.cells} == {Verdict.PASS}
    assert run.cells[0].id == "llama/eager/SEN-1" or run.cells[0].id == "gpt2/eager/SEN-1"
    assert all(cell.replay.startswith("tox -e conformance -- --arch") for cell in run.cells)
    assert "llama/reference/exported/decode/EXP-3" in junit.read_text()


def test_faulty_subject_fails_the_run(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    ended = suite(
        *("--arch", "llama", "--subject", "tests.faulty:off_by_one", "--backend", "exported", "--mode", "decode"),
        *("--clause", "EXP-1,PAR-1", "--record", str(record), "-n0"),
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert "✗ llama execute:logits-differ: 1 cell\n" in ended.stdout
    verdicts = {cell.clause: cell for cell in load_run(record).cells}
    assert verdicts["EXP-1"].verdict is Verdict.PASS
    failure = verdicts["PAR-1"]
    assert (failure.verdict, failure.stage, failure.signature) == (Verdict.FAIL, "execute", "execute:logits-differ")
    assert "replay    tox -e conformance -- --arch llama --clause PAR-1 --subject tests.faulty:off_by_one" in (
        failure.message or ""
    )


def test_dead_worker_costs_one_cell(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    ended = suite(
        *("--arch", "llama", "--subject", "tests.faulty:kills_the_process", "--backend", "exported"),
        *("--mode", "decode", "--clause", "SEN-2,EXP-6", "--record", str(record), "-n1"),
    )
    assert ended.returncode != 0
    verdicts = {cell.clause: cell.verdict for cell in load_run(record).cells}
    assert verdicts == {"SEN-2": Verdict.PASS, "EXP-6": Verdict.CRASH}


def test_record_is_whole_before_the_first_verdict(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    info = RunInfo(id="1", started="now", finished=None, complete=False, options={}, seed=None)
    RunWriter(path, info, Environment("3.11", "linux", "a cpu", {}))
    run = load_run(path)
    assert run.cells == ()
    assert not run.run.complete


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"cells": [{"id": "x"}]}, {"stray": 1}])
def test_schema_refuses_what_is_no_run(change: dict[str, Any]) -> None:
    environment = {"python": "3", "platform": "p", "cpu": "c", "packages": {}}
    info: dict[str, Any] = {"id": "1", "started": "s", "finished": None, "complete": False, "options": {}, "seed": None}
    run = {"schema_version": 1, "run": info, "environment": environment, "cells": []}
    jsonschema.validate(run, run_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**run, **change}, run_schema())
