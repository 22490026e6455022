"""The workflows for GitHub: their shell steps, run here on shards and a base as the artifacts would be."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
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

_FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS: Mapping[str, Any] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.yml"))
}
#: A step's condition, and whether it holds with a base and with a run from the cache.
_CONDITIONS: Mapping[str | None, Callable[[bool, bool], bool]] = {
    None: lambda base, cached: True,
    "inputs.base-artifact != ''": lambda base, cached: base,
    "inputs.base-artifact == ''": lambda base, cached: not base,
    "needs.share.outputs.cached != 'true'": lambda base, cached: not cached,
}
_GPT2, _LLAMA = cell(architecture="gpt2"), cell(architecture="llama")
_BROKEN = cell(architecture="llama", verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:a", message="it broke")


def _steps(job: str, workflow: str = "conformance.yml") -> list[Mapping[str, Any]]:
    return [step for step in WORKFLOWS[workflow]["jobs"][job]["steps"] if "run" in step]


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


def _report(
    where: Path, shards: Mapping[int, CellRecord], base: RunRecord | None, *, cached: bool = False
) -> tuple[int, str]:
    """The report job; the exit code of its first failing step, and what all of them said."""
    for number, judged in shards.items():
        record = run(judged)
        info = dataclasses.replace(record.run, id=f"shard{number}", options={"shard": f"{number}/2"})
        _write(where / "build" / "shards" / f"{number}" / "run.json", dataclasses.replace(record, run=info))
    if base:
        _write(where / "build" / "base" / "run.json", base)
    if cached:
        _write(where / "build" / "run.json", run(_GPT2, _LLAMA))
    said = ""
    for step in _steps("report"):
        if "pip install" in step["run"] or not _CONDITIONS[step.get("if")](base is not None, cached):
            continue
        environment = {
            "BASE": "--base build/base/run.json" if base else "",
            "SITE": "--site https://conformance.example",
            "ZIP": "https://github.example/site.zip",
            "RUN": "https://github.example/run",
            "GITHUB_STEP_SUMMARY": str(where / "summary.md"),
            "GITHUB_OUTPUT": str(where / "output"),
        }
        ended = _shell(step["run"], where, **environment)
        said += ended.stdout + ended.stderr
        if ended.returncode:
            return ended.returncode, said
    return 0, said


def test_shards_are_counted_from_one(tmp_path: Path) -> None:
    (step,) = [each for each in _steps("share") if each["id"] == "share"]
    ended = _shell(step["run"], tmp_path, SHARDS="3", GITHUB_OUTPUT=str(tmp_path / "output"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "output").read_text() == "shards=[1,2,3]\n"


@pytest.mark.parametrize(
    ("llama", "base", "code", "message"),
    [
        (_LLAMA, None, 0, "✓ ExecuTorch conformance: no unexpected results"),
        (_BROKEN, None, 1, "✗ ExecuTorch conformance: 1 unexpected result"),
        (_LLAMA, run(_GPT2, _LLAMA), 0, "PASS: 2 cells compared"),
        (_BROKEN, run(_GPT2, _LLAMA), 1, "FAIL: 1 newly failing"),
        (_BROKEN, run(_GPT2, _BROKEN), 0, "PASS: "),
    ],
)
def test_the_report_of_all_shards(
    tmp_path: Path, llama: CellRecord, base: RunRecord | None, code: int, message: str
) -> None:
    ended, said = _report(tmp_path, {1: _GPT2, 2: llama}, base)
    assert ended == code, said
    assert message in said
    summary = (tmp_path / "summary.md").read_text()
    assert "ExecuTorch conformance" in summary
    assert "[site, zipped](https://github.example/site.zip)" in summary
    assert (tmp_path / "build" / "summary.md").read_text() == summary
    assert (tmp_path / "build" / "site" / "index.html").exists()
    assert (tmp_path / "output").read_text() == "complete=True\n"


def test_a_base_from_the_cache_is_reported_without_shards(tmp_path: Path) -> None:
    ended, said = _report(tmp_path, {}, None, cached=True)
    assert ended == 0, said
    assert (tmp_path / "build" / "site" / "index.html").exists()


def test_a_run_is_cached_by_suite_and_inputs(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "a"], cwd=tmp_path, check=True)
    (step,) = [each for each in _steps("share") if each["id"] == "key"]
    output = tmp_path / "output"
    for inputs in ("one", "two", "two"):
        ended = _shell(step["run"], tmp_path, INPUTS=inputs, GITHUB_OUTPUT=str(output))
        assert ended.returncode == 0, ended.stderr
    one, two, again = output.read_text().splitlines()
    assert re.fullmatch(r"key=conformance-[0-9a-f]{40}-[0-9a-f]{16}", one)
    assert one != two == again


def test_a_missing_shard_is_reported(tmp_path: Path) -> None:
    ended, said = _report(tmp_path, {1: _GPT2}, None)
    assert ended == 2
    assert "missing shard 2/2" in said


def _fake(where: Path, name: str, script: str) -> str:
    """PATH with a command `name` before all others that writes its arguments to the file `called`."""
    fake = where / "bin" / name
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" > called; {script}\n')
    fake.chmod(0o755)
    return f"{fake.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("since", ["", "--since build/base/run.json "])
@pytest.mark.parametrize(("tox", "recorded", "code"), [(0, True, 0), (1, True, 0), (1, False, 1)])
def test_a_shard_fails_only_if_it_recorded_nothing(
    tmp_path: Path, tox: int, recorded: bool, code: int, since: str
) -> None:
    record = "mkdir -p build/conformance; echo {} > build/conformance/run.json;" if recorded else ""
    path = _fake(tmp_path, "tox", f"{record} exit {tox}")
    (step,) = [each for each in _steps("judge") if each.get("id") == "run"]
    ended = _shell(step["run"], tmp_path, PATH=path, ARGUMENTS="--tier smoke", SINCE=since, SHARD="2/4")
    assert ended.returncode == code, ended.stderr
    called = (tmp_path / "called").read_text()
    assert called == f"-e upstream -- --tier smoke {since}--shard 2/4 --output build/conformance/run.json\n"


@pytest.mark.parametrize("number", ["17", ""])
def test_the_pull_request_is_found_by_its_head(tmp_path: Path, number: str) -> None:
    (step,) = _steps("comment", "comment.yml")
    variables = {"GITHUB_REPOSITORY": "a/b", "HEAD": "someone:branch", "SHA": "abc"}
    output = tmp_path / "output"
    path = _fake(tmp_path, "gh", f"echo {number}")
    ended = _shell(step["run"], tmp_path, PATH=path, GITHUB_OUTPUT=str(output), **variables)
    assert ended.returncode == 0, ended.stderr
    assert output.read_text() == f"number={number}\n"
    assert "repos/a/b/pulls -f state=open -f head=someone:branch" in (tmp_path / "called").read_text()
    assert ("nothing to comment on" in ended.stdout) == (not number)


def _night(where: Path, record: RunRecord) -> tuple[int, str]:
    """The nightly job's shell steps up to the push of the history; the gate's result, and what all of them said."""
    _write(where / "build" / "tonight" / "conformance-main" / "run.json", record)
    _write(where / "build" / "tonight" / "conformance-release" / "run.json", run(_GPT2))
    said, output = "", where / "output"
    for step in _steps("publish", "nightly.yml"):
        if step.get("name") not in {"History", "Compare with the night before, and keep", "Push the history"}:
            continue
        ended = _shell(step["run"], where, GITHUB_STEP_SUMMARY=str(where / "summary"), GITHUB_OUTPUT=str(output))
        said += ended.stdout + ended.stderr
        assert ended.returncode == 0, said
    return int(output.read_text().splitlines()[-1].removeprefix("result=")), said


def test_a_night_is_compared_with_the_one_before_and_kept(tmp_path: Path) -> None:
    seed, origin = tmp_path / "seed", tmp_path / "origin.git"
    seed.mkdir()
    (seed / "README.md").write_text("the suite")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.example")
    for arguments in (
        ("init", "-q"),
        ("add", "."),
        ("commit", "-q", "-m", "a"),
        ("clone", "-q", "--bare", ".", origin),
    ):
        subprocess.run([*git, *arguments], cwd=seed, check=True, capture_output=True)
    # It breaks in the second night, and is as broken in the third.
    for night, (record, result) in enumerate([(run(_LLAMA), 0), (run(_BROKEN), 1), (run(_BROKEN, _GPT2), 0)]):
        checkout = tmp_path / f"night{night}"
        subprocess.run(["git", "clone", "-q", str(origin), str(checkout)], check=True, capture_output=True)
        ended, said = _night(checkout, record)
        assert ended == result, said
    shown = [*git, "log", "--format=%s", "--name-only", "history"]
    log = subprocess.run(shown, cwd=origin, capture_output=True, text=True, check=True).stdout
    assert log.count("Records of") == 3
    assert "README.md" not in log
    assert {line.partition("/")[0] for line in log.splitlines() if line.endswith(".json")} == {"main", "release"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_input_reaches_a_shell_as_text(name: str) -> None:
    for job in WORKFLOWS[name]["jobs"].values():
        for step in job.get("steps", ()):
            assert not re.search(r"\$\{\{", step.get("run", "")), step


def test_the_examples_in_the_documentation_call_workflows_as_they_are() -> None:
    """Those of docs/guides/ci.md: each call has the inputs that its workflow asks for, and no others."""
    text = (ROOT / "docs" / "guides" / "ci.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    calls = [job for each in examples for job in each["jobs"].values() if "uses" in job]
    # PyYAML reads `on:` as true.
    reusable = {name for name, workflow in WORKFLOWS.items() if "workflow_call" in workflow[True]}
    assert {Path(call["uses"].partition("@")[0]).name for call in calls} == reusable
    for call in calls:
        inputs = WORKFLOWS[Path(call["uses"].partition("@")[0]).name][True]["workflow_call"]["inputs"]
        given = call.get("with", {})
        assert given.keys() <= inputs.keys()
        assert {name for name, each in inputs.items() if each.get("required")} <= given.keys()
