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
    assert (code, printed) == (1, "error: none.json: No such file or directory\n")


def test_a_command_runs_without_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main.run(["--version"], "conformance") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["doctr"], "No such command 'doctr'. Did you mean 'doctor'?"),
        (["replay", "x"], "No such command 'replay': it is now 'failure replay'"),
        (["update-expectations", "x"], "No such command 'update-expectations': it is now 'matrix update'"),
        (["failure", "locat"], "No such command 'locat'. Did you mean 'locate'?"),
        (["report", "gaet"], "No such command 'gaet'. Did you mean 'gate'?"),
        (
            ["run", "--arhc", "llama"],
            "No such option '--arhc'. Did you mean '--arch'? Options of pytest follow after --",
        ),
        (["run", "-x"], "No such option '-x'. Options of pytest follow after --"),
        (["report", "gate", "x", "y", "--row", "5"], "No such option '--row'. Did you mean '--rows'?"),
        (["run", "llama"], "unexpected extra argument"),
        (["run", "--arch", "lama"], "No such architecture 'lama'. Did you mean 'llama'?"),
        (["run", "--arch", "llama,lama"], "No such architecture 'lama'. Did you mean 'llama'?"),
        (["run", "--arch", "meta-llama/Llama-3.2-1B"], "A model in a folder is judged with --checkpoint DIR"),
        (["run", "--arch", "../model"], "A model in a folder is judged with --checkpoint DIR"),
        (["run", "--exporter", "referense"], "No such exporter 'referense'. Did you mean 'reference'?"),
        (["run", "--backend", "xnpack"], "No such backend 'xnpack'. Did you mean 'xnnpack'?"),
        (["run", "--mode", "dynamics"], "No such mode 'dynamics'. Did you mean 'dynamic'?"),
        (["run", "--clause", "PARITY"], "No such clause 'PARITY'. Did you mean 'PAR'?"),
        (["run", "--tier", "cor"], "No such tier 'cor'. Did you mean 'core'?"),
        (["run", "--variation", "lnog"], "No such variation 'lnog'. Did you mean 'long'?"),
        (["run", "--dtype", "float23"], "No such dtype 'float23'. Did you mean 'float32'?"),
        (["run", "--max-examples", "none"], "'none' is not a whole number above 0"),
        (["run", "--shard", "3/2"], "'3/2' is not a valid shard; write 3/8 for the third of eight"),
        (["run", "-n", "many"], "'many' is not a number of processes"),
        (["run", "--arch", ","], "no architecture given"),
        (["matrix", "add", "qwen33"], "No such architecture 'qwen33'. Did you mean 'qwen3'?"),
        (["inspect", "partition", "lama"], "No such architecture 'lama'. Did you mean 'llama'?"),
        (["inspect", "partition", "llama", "--backend", "xnpack"], "No such backend 'xnpack'. Did you mean 'xnnpack'?"),
        (["explore", "run", "lama"], "No such architecture 'lama'. Did you mean 'llama'?"),
        (["explore", "run", "llama", "--backend", "vulkan"], "No such backend that runs here 'vulkan'"),
        (["explore", "run", "llama", "--minutes", "-1"], "'-1' is not a number of minutes above 0"),
        (["model", "export", "x", "--backend", "xnpack"], "No such backend 'xnpack'. Did you mean 'xnnpack'?"),
        (["model", "export", "x", "--cache-length", "1"], "1 is not in the range x>=2"),
        (["report", "summary", "x", "--rows", "0"], "0 is not in the range x>=1"),
        (["report", "gate", "x", "y", "--slower-by", "nan"], "nan is not a finite number"),
    ],
)
def test_what_does_not_exist_is_one_sentence_with_the_next_step(arguments: list[str], message: str) -> None:
    code, stderr = _ended(*arguments)
    assert code == 2
    sentence, help_line = stderr.splitlines()
    assert sentence.startswith("error: ")
    assert message in sentence
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
def test_pytest_says_the_same_of_a_name(option: str, name: str) -> None:
    given = {"--exporter": "reference", option: name}
    config = type("Config", (), {"getoption": lambda _, key, default=None: given.get(key, default), "rootpath": ROOT})
    with pytest.raises(pytest.UsageError) as refused:
        options.read_options(config())
    assert str(refused.value) in _ended("run", option, name)[1]


def test_a_command_that_cannot_do_its_work_says_why_and_exits_with_1(tmp_path: Path) -> None:
    code, stderr = _ended("matrix", "update", str(tmp_path / "none.json"))
    assert code == 1
    assert stderr.startswith("error: ")
    assert len(stderr.splitlines()) == 1


def test_wrong_input_of_the_report_is_2_since_1_is_an_answer_of_a_gate(tmp_path: Path) -> None:
    code, stderr = _ended("report", "gate", str(tmp_path / "base.json"), str(tmp_path / "head.json"))
    assert code == 2
    assert "No such file" in stderr


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
    assert ended.returncode in (1, 2)
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f" needs {package}, which is not installed: " in ended.stderr
    assert f"pip install -c {ROOT}/constraints.txt {shlex.quote(f'{ROOT}{extra}')}" in ended.stderr


def test_python_without_any_package_gets_the_sentence_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "conformance", "doctor"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: conformance needs click, which is not installed: ")
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
