"""The workflow for GitHub: its shell steps, run here on shards and a base as its artifacts would be."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, RunRecord, write_run
from tests.report.samples import cell, run

pytestmark = pytest.mark.process

WORKFLOW: Mapping[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "conformance.yml").read_text(encoding="utf-8")
)
_GPT2, _LLAMA = cell(architecture="gpt2"), cell(architecture="llama")
_BROKEN = cell(architecture="llama", verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:a", message="it broke")


def _steps(job: str) -> list[Mapping[str, Any]]:
    return [step for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def _write(path: Path, record: RunRecord) -> None:
    write_run(path, record)


def _shell(script: str, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As GitHub does it: fail with the first command that fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, **environment}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(
        command, cwd=where, env=variables, capture_output=True, text=True, check=False, timeout=scaled(120)
    )


def _report(where: Path, shards: Mapping[int, CellRecord], base: RunRecord | None) -> tuple[int, str]:
    """The report job; the exit code of its first failing step, and what all of them said."""
    for number, judged in shards.items():
        record = run(judged)
        info = dataclasses.replace(record.run, id=f"shard{number}", options={"shard": f"{number}/2"})
        _write(where / "build" / "shards" / f"{number}" / "run.json", dataclasses.replace(record, run=info))
    if base:
        _write(where / "build" / "base" / "run.json", base)
    said = ""
    for step in _steps("report"):
        if "pip install" in step["run"]:
            continue
        condition = step.get("if")
        assert condition in (None, "inputs.base-artifact != ''", "inputs.base-artifact == ''")
        if condition and (condition == "inputs.base-artifact != ''") != (base is not None):
            continue
        chosen = "--base build/base/run.json" if base else ""
        summary = where / "summary.md"
        ended = _shell(step["run"], where, BASE=chosen, GITHUB_STEP_SUMMARY=str(summary))
        said += ended.stdout + ended.stderr
        if ended.returncode:
            return ended.returncode, said
    return 0, said


def test_shards_are_counted_from_one(tmp_path: Path) -> None:
    (step,) = _steps("share")
    ended = _shell(step["run"], tmp_path, SHARDS="3", GITHUB_OUTPUT=str(tmp_path / "output"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "output").read_text() == "shards=[1,2,3]\n"


@pytest.mark.parametrize(
    ("llama", "base", "code", "told"),
    [
        (_LLAMA, None, 0, "✓ ExecuTorch conformance: no unexpected results"),
        (_BROKEN, None, 1, "✗ ExecuTorch conformance: 1 unexpected result"),
        (_LLAMA, run(_GPT2, _LLAMA), 0, "PASS: 2 cells compared"),
        (_BROKEN, run(_GPT2, _LLAMA), 1, "FAIL: 1 newly failing"),
        (_BROKEN, run(_GPT2, _BROKEN), 0, "PASS: "),
    ],
)
def test_the_report_of_all_shards(
    tmp_path: Path, llama: CellRecord, base: RunRecord | None, code: int, told: str
) -> None:
    ended, said = _report(tmp_path, {1: _GPT2, 2: llama}, base)
    assert ended == code, said
    assert told in said
    assert "ExecuTorch conformance" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "build" / "site" / "index.html").exists()


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    ended, said = _report(tmp_path, {1: _GPT2}, None)
    assert ended == 2
    assert "missing shard 2/2" in said


@pytest.mark.parametrize(("tox", "recorded", "code"), [(0, True, 0), (1, True, 0), (1, False, 1)])
def test_a_shard_fails_only_if_it_recorded_nothing(tmp_path: Path, tox: int, recorded: bool, code: int) -> None:
    fake = tmp_path / "bin" / "tox"
    fake.parent.mkdir()
    record = "mkdir -p build/conformance; echo {} > build/conformance/run.json;" if recorded else ""
    fake.write_text(f'#!/bin/sh\necho "$@" > called; {record} exit {tox}\n')
    fake.chmod(0o755)
    (step,) = [each for each in _steps("judge") if each.get("id") == "run"]
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    ended = _shell(step["run"], tmp_path, PATH=path, ARGUMENTS="--tier smoke", SHARD="2/4")
    assert ended.returncode == code, ended.stderr
    called = (tmp_path / "called").read_text()
    assert called == "-e upstream -- --tier smoke --shard 2/4 --output build/conformance/run.json\n"


def test_no_input_reaches_a_shell_as_text() -> None:
    for job in WORKFLOW["jobs"].values():
        for step in job["steps"]:
            assert not re.search(r"\$\{\{", step.get("run", "")), step
