"""The command line as a whole: help, names that do not exist, errors in one sentence, packages that are missing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conformance.cli.main import main
from conformance.core import missing
from conformance.core.paths import ROOT
from conformance.runner import options
from tests.support.messages import printed, refused

pytestmark = pytest.mark.unit


def _commands(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from _commands(child, (*path, name))


_ALL = dict(_commands())


def _ended(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was said on stderr, for the command line that `arguments` are."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


@pytest.mark.parametrize("name", _ALL)
def test_each_command_has_a_description_a_paragraph_and_a_way_to_ask_for_them(name: str) -> None:
    asked = [CliRunner().invoke(main, [*name.split(), flag]) for flag in ("-h", "--help")]
    assert asked[0].output == asked[1].output
    assert {each.exit_code for each in asked} == {0}
    first, _, rest = (_ALL[name].help or "").partition("\n\n")
    assert first.endswith((".", "CANNOT RUN."))
    assert len(first) < 80
    assert rest
    if not isinstance(_ALL[name], click.Group):
        assert f"    conformance {name}" in asked[0].output, "an example"


def test_help_imports_little() -> None:
    code = (
        "import sys; from conformance.cli.main import main; code = main.run(['--help'], 'conformance')\n"
        "heavy = {'torch', 'transformers', 'pytest', 'pydantic', 'yaml', 'rich', 'duckdb'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: conformance ")


def test_a_file_that_does_not_exist_is_named_first() -> None:
    code, printed = _ended("matrix", "durations", "none.json")
    assert (code, printed) == (1, "error [file-error]: none.json: No such file or directory\n")


def test_a_command_that_changes_the_project_needs_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.core.console.INSTALLED", True)
    code, stderr = _ended("docs")
    assert code == 1
    printed(stderr, "needs-checkout")


def test_a_command_runs_without_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main.run(["--version"], "conformance") == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["doctr"], "unknown-name"),
        (["replay", "x"], "unknown-name"),
        (["update-expectations", "x"], "unknown-name"),
        (["failure", "locat"], "unknown-name"),
        (["report", "gaet"], "unknown-name"),
        (
            ["run", "--arhc", "llama"],
            "unknown-name",
        ),
        (["run", "-x"], "unknown-name"),
        (["report", "gate", "x", "y", "--row", "5"], "unknown-name"),
        (["run", "llama"], ""),
        (["run", "--arch", "lama"], "unknown-name"),
        (["run", "--arch", "llama,lama"], "unknown-name"),
        (["run", "--arch", "meta-llama/Llama-3.2-1B"], "unknown-name"),
        (["run", "--arch", "../model"], "unknown-name"),
        (["run", "--exporter", "referense"], "unknown-name"),
        (["run", "--backend", "xnpack"], "unknown-name"),
        (["run", "--mode", "dynamics"], "unknown-name"),
        (["run", "--clause", "PARITY"], "unknown-name"),
        (["run", "--tier", "cor"], "unknown-name"),
        (["run", "--variation", "lnog"], "unknown-name"),
        (["run", "--dtype", "float23"], "unknown-name"),
        (["run", "--max-examples", "none"], "invalid-number"),
        (["run", "--shard", "3/2"], "invalid-shard"),
        (["run", "-n", "many"], "invalid-number"),
        (["run", "--arch", ","], "no-names"),
        (["matrix", "add", "qwen33"], "unknown-name"),
        (["inspect", "partition", "lama"], "unknown-name"),
        (["inspect", "partition", "llama", "--backend", "xnpack"], "unknown-name"),
        (["explore", "run", "lama"], "unknown-name"),
        (["explore", "run", "llama", "--backend", "vulkan"], "unknown-name"),
        (["explore", "run", "llama", "--minutes", "-1"], "invalid-number"),
        (["model", "export", "x", "--backend", "xnpack"], "unknown-name"),
        (["model", "export", "x", "--cache-length", "1"], ""),
        (["report", "summary", "x", "--rows", "0"], ""),
        (["report", "gate", "x", "y", "--slower-by", "nan"], ""),
    ],
)
def test_what_does_not_exist_is_one_sentence_with_the_next_step(arguments: list[str], code: str) -> None:
    exit_code, stderr = _ended(*arguments)
    assert exit_code == 2
    sentence, help_line = stderr.splitlines()
    if code:
        printed(sentence, code)
    else:  # click's own
        assert sentence.startswith("error: ")
    assert help_line.startswith("try: conformance")
    assert help_line.endswith(" --help")


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--arch", "lama"),
        ("--arch", "meta-llama/Llama-3.2-1B"),
        ("--exporter", "referense"),
        ("--backend", "xnpack"),
        ("--clause", "PARITY"),
        ("--tier", "cor"),
        ("--variation", "lnog"),
    ],
)
def test_pytest_prints_the_same_error_for_a_name(option: str, name: str) -> None:
    given = {"--exporter": "reference", option: name}
    config = type("Config", (), {"getoption": lambda _, key, default=None: given.get(key, default), "rootpath": ROOT})
    with refused("unknown-name") as caught:
        options.read_options(config())
    assert str(caught.value).removeprefix("[unknown-name] ") in _ended("run", option, name)[1]


def test_a_command_that_cannot_do_its_work_prints_why_and_exits_with_1(tmp_path: Path) -> None:
    code, stderr = _ended("matrix", "update", str(tmp_path / "none.json"))
    assert code == 1
    printed(stderr, "file-error")
    assert len(stderr.splitlines()) == 1


def test_wrong_input_of_the_report_is_2_since_1_is_an_answer_of_a_gate(tmp_path: Path) -> None:
    code, stderr = _ended("report", "gate", str(tmp_path / "base.json"), str(tmp_path / "head.json"))
    assert code == 2
    printed(stderr, "file-error")


def test_group_without_a_command_shows_its_help() -> None:
    code, stderr = _ended("failure")
    assert code == 2
    assert stderr.startswith("Usage: conformance failure ")


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith("conformance 0.")


# A package that is missing


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["run", "--arch", "llama"], "torch", "[run]"),
        (["run", "--arch", "llama"], "xdist", "[run]"),
        (["model", "export", "x"], "executorch", "[run]"),
        (["failure", "replay", "x"], "transformers", "[run]"),
        (["report", "query", "runs.duckdb", "SELECT 1"], "duckdb", "[report]"),
        (["report", "build", "run.json", "-o", "site"], "jinja2", ""),
    ],
)
def test_package_that_is_missing_is_one_sentence_that_installs_it(
    tmp_path: Path, arguments: list[str], package: str, extra: str
) -> None:
    record = {
        "schema_version": 1,
        "run": {"id": "1", "started": "2026-11-23", "finished": None, "complete": False, "options": {}, "seed": None},
        "environment": {"python": "3", "platform": "p", "cpu": "c", "packages": {}},
        "cells": [],
    }
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from conformance.cli.main import main; sys.exit(main.run({arguments!r}, 'conformance'))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == {"run": 4, "report": 2, "failure": 2}.get(arguments[0], 1)
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f" needs {package}, which is not installed: " in ended.stderr
    assert f"pip install -c {ROOT}/constraints.txt {shlex.quote(f'{ROOT}{extra}')}" in ended.stderr


def test_python_without_any_package_gets_the_sentence_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "conformance", "doctor"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error [missing-package]: conformance needs click, which is not installed: ")
    assert f" -c constraints.txt {ROOT}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("origin", "project"),
    [
        ({"url": "file:///home/a%20b/suite", "dir_info": {}}, "/home/a b/suite[run]"),
        (
            {"url": "https://example.org/s.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            "executorch-conformance[run] @ git+https://example.org/s.git@12ab",
        ),
        (None, "executorch-conformance[run]"),
    ],
)
def test_installed_copy_names_where_it_is_from(monkeypatch: pytest.MonkeyPatch, origin: object, project: str) -> None:
    class Installed:
        @staticmethod
        def read_text(name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(missing, "INSTALLED", True)
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed)
    sentence = missing.missing("conformance run", "torch")
    assert sentence.startswith("conformance run needs torch, which is not installed: ")
    assert sentence.endswith(f"constraints.txt {shlex.quote(project)}")


def test_python_m_runs_the_same_commands() -> None:
    command = [sys.executable, "-m", "conformance", "failure", "replay"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Missing argument 'BUNDLE'" in ended.stderr
