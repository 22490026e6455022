"""The commands in the documentation exist, and those that need no torch run as they stand."""

from __future__ import annotations

import configparser
import dataclasses
import functools
import glob
import importlib.util
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conformance.cli.main import main
from conformance.core.contract import CLAUSES
from conformance.core.exporter_names import KNOWN
from conformance.core.paths import ROOT
from conformance.matrix.schema import load_matrix
from conformance.pipeline.backends import BACKENDS
from conformance.records.run import write_run
from tests.report.samples import cell, run
from tests.support.doc_pages import PAGES, inline_commands, page_id, shell_commands
from tests.support.messages import messages

pytestmark = pytest.mark.unit

#: Environments of tox whose arguments are the suite's.
_SUITE = ("conformance", "upstream", "optimum")
#: Options of pytest that pages give to the suite.
_OF_PYTEST = ("--junitxml=",)


def _environments() -> set[str]:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    return {name.removeprefix("testenv:") for name in tox.sections() if name.startswith("testenv:")}


def _problem(words: Sequence[str]) -> str:
    """Why the command would be refused; empty if it would not."""
    if words[0] == "tox":
        environment, arguments = (words[2], words[4:]) if words[1:2] == ["-e"] else ("help", [])
        if environment not in {*_environments(), "ENVIRONMENT"}:
            return f"tox has no environment {environment}"
        if environment not in _SUITE:
            return ""
        words = ["conformance", "run", *(word for word in arguments if not word.startswith(_OF_PYTEST))]
    if words[0] == "python" and words[1] == "-m":
        return "" if importlib.util.find_spec(words[2]) else f"no module {words[2]}"
    return _refused(words[1:]) if words[0] == "conformance" else ""


def _refused(words: Sequence[str]) -> str:
    """Why click refuses the arguments, or a name among them that does not exist."""
    ctx = click.Context(main, info_name="conformance", **main.context_settings)  # click keeps the names of `--help`
    found: click.Command = main
    left = list(words)
    try:
        while isinstance(found, click.Group) and left and not left[0].startswith("-"):
            name, child, left = found.resolve_command(ctx, left)
            assert child is not None
            ctx = click.Context(child, parent=ctx, info_name=name)
            found = child
        options, _, _ = found.make_parser(ctx).parse_args(left)
    except click.ClickException as error:
        return error.format_message()
    return next(_unknown(options), "")


@functools.cache
def _names() -> dict[str, frozenset[str]]:
    """The names that an option of `run` takes."""
    clauses = {clause.id for clause in CLAUSES}
    return {
        "arch": frozenset(load_matrix().architectures),
        "backend": frozenset({*BACKENDS, "all", "exported"}),
        "exporter": frozenset(KNOWN),
        "clause": frozenset(clauses | {clause.partition("-")[0] for clause in clauses}),
        "tier": frozenset({"smoke", "core", "full"}),
        "mode": frozenset({"decode", "dynamic"}),
    }


def _unknown(options: dict[str, object]) -> Iterator[str]:
    for option, names in _names().items():
        for name in filter(None, str(options.get(option) or "").split(",")):
            # Capitals stand for a name of the reader's own; what has a colon is a module's.
            if ":" not in name and name not in ("NAME", "ARCH") and name.partition("+")[0] not in names:
                yield f"--{option} {name} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = [*shell_commands(text), *inline_commands(text)]
    problems = [f"{' '.join(words)}: {problem}" for words in commands if (problem := _problem(words))]
    assert not problems


def test_commands_in_what_to_do_about_an_error_exist() -> None:
    commands = [words for entry in messages().values() for words in inline_commands(entry.step)]
    assert [problem for words in commands if (problem := _problem(words))] == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("conformance run --arch llama -- -x", ""),
        ("conformance docs --status a.json b.json", ""),
        ("conformance replay FOLDER", "it is now 'failure replay'"),
        ("conformance run --subjects transformers", "No such option"),
        ("conformance run --arch lama", "--arch lama does not exist"),
        ("conformance run --arch llama+long,NAME", ""),
        ("conformance report gate --rows", "requires an argument"),
        ("tox -e conformance -- --clause PAR-99", "--clause PAR-99 does not exist"),
        ("tox -e conformance -- --junitxml=junit.xml", ""),
        ("tox -e suite", "tox has no environment suite"),
        ("tox", ""),
        ("python -m conformances", "no module conformances"),
        ("adb shell", ""),
    ],
)
def test_a_command_that_does_not_exist_would_be_found(command: str, problem: str) -> None:
    assert problem in _problem(command.split())
    assert bool(problem) == bool(_problem(command.split()))


@pytest.fixture
def folder_with_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the records that pages name."""
    base = run(cell(), cell("PAR-2"))
    for name in ("base", "head", "run", "older", "newer", "build/conformance/run", "runs/one"):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_run(path, base)
    for release in ("et14", "et15", "old", "new", "base", "head"):
        write_run(tmp_path / "build" / "conformance" / f"{release}.json", base)
    for name in ("base", "head"):
        artifact = tmp_path / "build" / "ci" / f"conformance-{name}"
        artifact.mkdir(parents=True)
        write_run(artifact / "run.json", base)
    for number, name in enumerate(("one", "two"), 1):
        shard = run(cell(architecture=name))
        shard = dataclasses.replace(
            shard, run=dataclasses.replace(shard.run, options={**shard.run.options, "shard": f"{number}/2"})
        )
        write_run(tmp_path / f"{name}.json", shard)
    shutil.copytree(ROOT / "fixtures" / "runs", tmp_path / "fixtures" / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: Pages whose commands of the report run in their order, as a reader would type them.
_REPORTS = [page for page in PAGES if any(w[:2] == ["conformance", "report"] for w in shell_commands(page.read_text()))]


@pytest.mark.parametrize("page", _REPORTS, ids=page_id)
def test_commands_of_the_report_run(page: Path, folder_with_records: Path) -> None:
    for words in shell_commands(page.read_text(encoding="utf-8")):
        if words[:2] != ["conformance", "report"] or words[2] == "issues":  # which needs GitHub's command line
            continue
        expanded = [path for word in words[1:] for path in sorted(glob.glob(word)) or [word]]  # as a shell does
        ended = CliRunner().invoke(main, expanded)
        # The gate may fail on runs that differ; an error of the command line is 2.
        assert ended.exit_code in ((0, 1) if words[2] == "gate" else (0,)), (words, ended.output)
        assert not re.search(r"^error:", ended.output, re.MULTILINE), ended.output
