"""The plugin as people use it: options, records, exit codes, interruption. Each run is a process of its own."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conformance.core.cells import Cell
from conformance.core.commands import RUN_COMMAND, command, run_command
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.core.verdicts import Stage, Verdict
from conformance.records.bundle import read_bundle
from conformance.records.environment import commit
from conformance.records.run import load_run, run_schema
from conformance.runner.judge import bare_record
from conformance.runner.terminal import NOTHING_JUDGED, render_summary
from tests.faults.processes import LAST_WORDS
from tests.support.harness import copied_suite, python_module, suite
from tests.support.messages import printed

pytestmark = pytest.mark.process


def _junit(path: Path) -> dict[str, tuple[str, str | None]]:
    """By the cell that its properties name: the verdict there, and what pytest made of the test case."""
    found = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        message = {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        ends = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
        assert message["cell"] not in found
        assert len(ends) <= 1
        found[message["cell"]] = (message["verdict"], ends[0] if ends else None)
    return found


def test_pinning_shows_no_warnings_of_torch(tmp_path: Path) -> None:
    ended = python_module("conformance", "explore", "pin", str(tmp_path / "none.json"))
    assert ended.stderr == f"error [file-error]: {tmp_path / 'none.json'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--arch", "lama"], "unknown-name"),
        (["--backend", "xnpack"], "unknown-name"),
        (["--mode", "dynamics"], "unknown-name"),
        (["--clause", "PARITY"], "unknown-name"),
        (["--tier", "cor"], "unknown-name"),
        (["--subject", "referense"], "unknown-name"),
        (["--subject", "tests.faults.programs:off_by_on"], "unknown-name"),
        (["--hypothesis-seed", "any"], "invalid-number"),
        (["--shard", "3/2"], "invalid-shard"),
        (["--arch", "llama", "--shard", "1/2"], "invalid-shard"),
        (["--examples", "none"], "invalid-number"),
        (["llama"], "file-error"),
    ],
)
def test_typo_is_answered_and_nothing_runs(tmp_path: Path, arguments: list[str], code: str) -> None:
    record = tmp_path / "run.json"
    ended = suite(*arguments, "--record", str(record))
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    printed(ended.stderr + ended.stdout, code)
    assert not record.exists()


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_checks_that_cannot_be_imported_are_reported_once(tmp_path: Path, workers: str) -> None:
    checkout = copied_suite(tmp_path)
    for path in (checkout / "conformance/checks").rglob("test_*.py"):
        path.unlink()  # each worker would import torch for them
    for name in ("test_one.py", "test_two.py"):
        (checkout / "conformance/checks" / name).write_text("import nothing_of_this_name\n", encoding="utf-8")
    ended = suite("--arch", "llama", "--clause", "SEN-2", workers, cwd=checkout)
    assert ended.returncode != 0
    cause = "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert f"checks that cannot be imported: 2, by {cause}" in ended.stdout
    assert ended.stdout.count(f"E   {cause}") == 1
    if ended.returncode == pytest.ExitCode.INTERRUPTED:  # with workers, pytest judges what it could import
        assert ended.stdout.splitlines()[-1].endswith(f" run --resume -- --arch llama --clause SEN-2 {workers}")


def test_good_run_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    junit = tmp_path / "junit.xml"
    ended = suite(
        *("--arch", "gpt2,llama", "--backend", "exported", "--mode", "decode", "--clause", "EXP-1,EXP-2,EXP-3,SEN"),
        *("--record", str(record), f"--junitxml={junit}"),
    )
    assert ended.returncode == 0, ended.stdout
    assert "reference; torch" in ended.stdout
    assert "12 cells: 12 pass" in ended.stdout
    plain = json.loads(record.read_text())
    jsonschema.validate(plain, run_schema())
    run = load_run(record)
    assert run.run.complete
    assert run.run.finished
    assert {cell.verdict for cell in run.cells} == {Verdict.PASS}
    assert run.cells[0].id == "llama/eager/SEN-1" or run.cells[0].id == "gpt2/eager/SEN-1"
    assert all(cell.replay.startswith("conformance run --arch") for cell in run.cells)
    assert all(cell.replay.endswith(" --output build/conformance/replay.json") for cell in run.cells)
    assert run.run.commit == commit(ROOT)
    assert f"record {record}, written at the end; until then run.jsonl" in ended.stdout
    assert [path.name for path in tmp_path.glob("run*")] == ["run.json"]
    site = f"report build {record} -o build/site`, then open {ROOT / 'build/site/index.html'}"
    assert site in ended.stdout
    assert _junit(junit) == {cell.id: ("pass", None) for cell in run.cells}


def test_a_run_that_judges_nothing_does_not_pass(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    ended = suite("--arch", "gemma3n", "--backend", "exported", "--clause", "EXP-1", "--record", str(record), "-n0")
    assert ended.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, ended.stdout
    assert f"\n{NOTHING_JUDGED}\n" in ended.stdout
    assert "gemma3n_text covers the decoder" in ended.stdout
    assert {cell.verdict for cell in load_run(record).cells} == {Verdict.NOT_APPLICABLE}


def test_a_clause_of_which_a_run_asks_a_sample_is_asked_of_all_if_named(tmp_path: Path) -> None:
    options = ("--arch", "llama,mistral", "--backend", "xnnpack", "--mode", "decode", "--collect-only", "-n0")
    record = ("--record", str(tmp_path / "run.json"))
    sampled = suite(*options, "--clause", "LOW", *record).stdout
    assert "conformance: LOW-8 only on llama; on all with --clause LOW-8" in sampled
    assert "[llama/reference/xnnpack/decode/LOW-8]" in sampled
    assert "[mistral/reference/xnnpack/decode/LOW-8]" not in sampled
    named = suite(*options, "--clause", "LOW-8", *record).stdout
    assert "LOW-8 only on" not in named
    assert "[mistral/reference/xnnpack/decode/LOW-8]" in named


def test_what_lowers_is_imported_by_what_lowers(tmp_path: Path) -> None:
    """Where the store has programs, by a run that lacks one of its own; not by one that finds all of them there."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "of-another-run.artifact").write_bytes(b"")
    run = (
        *("--arch", "llama", "--backend", "portable", "--mode", "decode", "--clause", "LOW-1,LOW-5,PAR-1,RUN-2", "-n0"),
        *("--cache-dir", str(store), "--output", str(tmp_path / "run.json")),
    )
    made = suite(*run)
    assert made.returncode == 0, made.stdout
    again = python_module("pytest", "conformance", *run, "-p", "tests.support.without_exir")
    assert again.returncode == 0, again.stdout
    assert "5 cells: 5 pass" in again.stdout
    refused = python_module("tests.support.without_exir")
    assert refused.stderr.endswith("RuntimeError: executorch.exir was imported\n")


def test_faulty_subject_fails_the_run_and_leaves_a_bundle(tmp_path: Path) -> None:
    record, bundles = tmp_path / "run.json", tmp_path / "failures"
    ended = python_module(
        *("pytest", "conformance", "--arch", "llama", "--subject", "tests.faults.programs:off_by_one"),
        *("--backend", "exported"),
        *("--mode", "decode", "--clause", "EXP-1,PAR-1", "--record", str(record), "--bundles", str(bundles), "-n0"),
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert "✗ logits differ (execute): 1 cell\n" in ended.stdout
    assert "0 of 1 architectures decode correctly on " in ended.stdout
    for words in ("Warning", "Failed to load"):  # which torch and torchao say when they are imported
        assert words not in ended.stderr + ended.stdout
    verdicts = {cell.clause: cell for cell in load_run(record).cells}
    assert verdicts["EXP-1"].verdict is Verdict.PASS
    failure = verdicts["PAR-1"]
    assert (failure.verdict, failure.stage, failure.signature) == (Verdict.FAIL, "execute", "execute:logits-differ")
    replay = "--arch llama --clause PAR-1 --exporter tests.faults.programs:off_by_one"
    assert f"replay    conformance run {replay}" in (failure.message or "")
    assert f"replay    {run_command(*replay.split())}" in ended.stdout  # with this environment's Python

    (folder,) = bundles.iterdir()
    assert f"  bundle    {command('failure', 'replay', str(folder))}\n" in ended.stdout
    assert "  diverged  exported program: off by " in ended.stdout
    assert read_bundle(folder).diverged == "exported program"
    assert (folder / "divergence.json").is_file()
    again = python_module("conformance", "failure", "replay", str(folder))
    assert again.returncode == 1
    assert "STILL FAILING: " in again.stdout
    assert "  diverged  exported program: off by " in again.stdout
    assert not again.stderr


#: The one that hangs uses all of it; the others export a tiny model.
_LIMIT_S = scaled(12)
#: The verdict of each exporter in EXP-1, and a part of its message.
_LOST = {
    "tests.faults.processes:segfaults": (Verdict.CRASH, "died of SIGSEGV"),
    "tests.faults.processes:aborts": (Verdict.CRASH, f"output    {LAST_WORDS}"),
    "tests.faults.processes:exits": (Verdict.CRASH, "died with exit code 3"),
    "tests.faults.processes:leaves": (Verdict.FAIL, "SystemExit"),
    "tests.faults.programs:hangs": (
        Verdict.TIMEOUT,
        f"exceeded the {_LIMIT_S} s limit for tests.faults.programs:hangs exported decode",
    ),
    "tests.faults.programs:takes_all_memory": (Verdict.OUT_OF_MEMORY, "over its limit of 3000 MiB"),
}


def test_lost_subjects_do_not_end_the_run(tmp_path: Path) -> None:
    record, junit = tmp_path / "run.json", tmp_path / "junit.xml"
    ended = suite(
        *("--arch", "llama", "--subject", f"{','.join(_LOST)},reference", "--backend", "exported"),
        *("--mode", "decode", "--clause", "SEN-2,EXP-1", "--record", str(record), "--bundles", str(tmp_path / "b")),
        *("--time-limit", str(_LIMIT_S), "--memory-limit", "3000", f"--junitxml={junit}"),
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    run = load_run(record)
    assert run.run.complete
    assert len(run.cells) == len(_LOST) + 2
    for cell in run.cells:
        if cell.subject in (None, "reference"):
            assert cell.verdict is Verdict.PASS, cell
        else:
            verdict, message = _LOST[cell.subject]
            assert (cell.verdict, cell.stage) == (verdict, Stage.EXPORT), cell
            assert message in (cell.message or "")
    assert "8 cells: 2 pass, 1 fail, 3 crash, 1 timeout, 1 out-of-memory" in ended.stdout
    assert _junit(junit) == {
        cell.id: (cell.verdict, None if cell.verdict is Verdict.PASS else "failure") for cell in run.cells
    }


@pytest.mark.parametrize(
    ("how", "counted"), [(("-n0",), "failure"), (("-n1", "--in-process", "--max-worker-restart=0"), "error")]
)
def test_dead_process_costs_one_cell(tmp_path: Path, how: tuple[str, ...], counted: str) -> None:
    record, junit = tmp_path / "run.json", tmp_path / "junit.xml"
    ended = suite(
        *("--arch", "llama", "--subject", "tests.faults.programs:kills_the_process", "--backend", "exported"),
        *("--mode", "decode", "--clause", "SEN-2,EXP-6", "--record", str(record), f"--junitxml={junit}", *how),
    )
    assert ended.returncode != 0
    cells = {cell.clause: cell for cell in load_run(record).cells}
    assert {clause: cell.verdict for clause, cell in cells.items()} == {"SEN-2": Verdict.PASS, "EXP-6": Verdict.CRASH}
    assert _junit(junit) == {cells["SEN-2"].id: ("pass", None), cells["EXP-6"].id: ("crash", counted)}


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    ended = subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True)
    return ended.stdout.strip()


def test_commit_of_the_checkout_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    assert commit(checkout) is None
    _git(checkout, "init", "--quiet")
    assert commit(checkout) is None  # nothing is committed
    (checkout / "file").write_text("one")
    _git(checkout, "add", "file")
    _git(checkout, "commit", "--quiet", "--message", "one")
    head = _git(checkout, "rev-parse", "HEAD")
    (checkout / "stray").write_text("a record, for example")
    assert commit(checkout) == head
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in another repository's hook
    assert commit(checkout) == head
    (checkout / "file").write_text("two")
    assert commit(checkout) == f"{head}-dirty"
    (checkout / "unpacked").mkdir()
    assert commit(checkout / "unpacked") is None  # a copy of the suite inside of somebody else's repository
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) is None


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"cells": [{"id": "x"}]}, {"stray": 1}])
def test_the_schema_refuses_anything_but_a_run(change: dict[str, Any]) -> None:
    environment = {"python": "3", "platform": "p", "cpu": "c", "packages": {}}
    info: dict[str, Any] = {"id": "1", "started": "s", "finished": None, "complete": False, "options": {}, "seed": None}
    run = {"schema_version": 1, "run": info, "environment": environment, "cells": []}
    jsonschema.validate(run, run_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**run, **change}, run_schema())


def test_cells_that_were_not_run_are_reported_once_with_the_reason() -> None:
    message = "not run: it needs ExecuTorch's package for another backend; `pip install other-backend`"
    cells = [Cell(name, "reference", "other", Mode.DECODE, "LOW-1") for name in ("gpt2", "llama", "phi")]
    records = [bare_record(cell, Verdict.NOT_RUN, message) for cell in cells]
    records[2] = bare_record(cells[2], Verdict.NOT_RUN, "the run ended before this cell was reached")
    summary = render_summary(records, ROOT / "build/conformance/run.json", width=120, color=False)
    assert f"○ not run: 2 cells\n{message}\n" in summary
    assert "also      llama/reference/other/decode/LOW-1" in summary
    assert "○ not run: 1 cell\nthe run ended before this cell was reached\n" in summary


def test_under_tox_the_site_is_built_by_tox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_COMMAND, "tox -e conformance --")
    for record, build in (
        (ROOT / "build/conformance/run.json", "tox -e report"),
        (tmp_path / "a b.json", f"tox -e report -- '{tmp_path / 'a b.json'}'"),
    ):
        summary = render_summary([], record, width=120, color=False)
        assert f"site: run `{build}`, then open {ROOT / 'build/report/index.html'}" in summary
