"""Pages that are generated are up to date, and the commands that pages name exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conformance.cli import docs
from conformance.cli.main import main
from conformance.core import console
from conformance.core.paths import ROOT
from conformance.pipeline.backends import BACKENDS
from conformance.records.run import load_run, write_run
from tests.report.samples import cell, run

pytestmark = pytest.mark.unit

_PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def test_pages_are_up_to_date() -> None:
    result = CliRunner().invoke(main, ["docs", "--check"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_each_backend_has_a_page_and_nothing_else_has() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "reference" / "backends").iterdir()}
    assert pages == set(BACKENDS)


def test_each_backend_says_for_which_device_it_is() -> None:
    assert [name for name, backend in BACKENDS.items() if not backend.device] == []


def _folder() -> dict[str, str]:
    return {"one.md": "# One\n"}


def test_a_stale_page_is_named_with_the_command_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "_PAGES", {"page.md": ("conformance.core.contract", "contract_page")})
    monkeypatch.setattr(docs, "_FOLDERS", {"pages": ("tests.cli.test_docs", "_folder")})
    (tmp_path / "docs").mkdir()
    given = run(cell())
    for name in ("a.json", "b.json"):
        write_run(tmp_path / name, given)
    records = ["--status", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    stale = CliRunner().invoke(main, ["docs", "--check", *records])
    assert stale.exit_code == 1
    first, second, third = stale.stderr.splitlines()
    assert first.startswith("page.md is out of date: ")
    assert first.endswith("docs writes it")
    assert second.startswith("pages/one.md is out of date: ")
    assert third.startswith("docs/reference/status.md is out of date: ")
    assert f"docs --status {records[1]} {records[2]} writes it" in third
    assert not list((tmp_path / "docs").iterdir())
    written = CliRunner().invoke(main, ["docs", *records])
    assert written.stdout.splitlines() == ["wrote page.md", "wrote pages/one.md", "wrote docs/reference/status.md"]
    assert CliRunner().invoke(main, ["docs", "--check", *records]).exit_code == 0
    kept = tmp_path / "docs" / "records" / "status"
    assert [load_run(path) for path in sorted(kept.iterdir())] == [given, given]
    assert CliRunner().invoke(main, ["docs", "--check"]).exit_code == 0
    (tmp_path / "docs" / "reference" / "status.md").write_text("changed", encoding="utf-8")
    assert "docs/reference/status.md is out of date" in CliRunner().invoke(main, ["docs", "--check"]).stderr
    CliRunner().invoke(main, ["docs", "--status", records[1]])
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("arguments", [["docs"], ["matrix", "update", "run.json"], ["matrix", "durations", "run.json"]])
def test_an_installed_copy_has_no_files_to_change(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "INSTALLED", True)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "changes files of the project: run it in a checkout" in result.stderr


def _named_commands(text: str) -> Iterator[str]:
    """Each `conformance ...` in a block of shell or between backticks, without the comment after it."""
    for block in re.findall(r"^```(?:sh|bash|console)$(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^(?:\$ )?(conformance .*)$", re.sub(r"\\\n\s*", "", block), re.MULTILINE)
    yield from re.findall(r"(?<!`)`(conformance [^`\n]*)`", text)


def _problem(command: str) -> str:
    """Why click refuses the command line; empty if it does not. Values of options are not looked at."""
    words = shlex.split(command.replace("...", "").replace("…", ""), comments=True)[1:]
    ctx = click.Context(main, info_name="conformance", **main.context_settings)  # click keeps the names of `--help`
    found: click.Command = main
    try:
        while isinstance(found, click.Group) and words and not words[0].startswith("-"):
            name, child, words = found.resolve_command(ctx, words)
            assert child is not None
            ctx = click.Context(child, parent=ctx, info_name=name)
            found = child
        found.make_parser(ctx).parse_args(words)
    except click.ClickException as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    commands = list(_named_commands(page.read_text(encoding="utf-8")))
    problems = [f"{command}: {problem}" for command in commands if (problem := _problem(command))]
    assert not problems


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("conformance run --arch llama -- -x   # a comment", ""),
        ("conformance docs --status a.json b.json", ""),
        ("conformance replay FOLDER", "it is now 'failure replay'"),
        ("conformance run --subjects transformers", "No such option"),
        ("conformance report gate --rows", "requires an argument"),
    ],
)
def test_a_command_that_does_not_exist_would_be_found(command: str, problem: str) -> None:
    assert problem in _problem(command)
    assert bool(problem) == bool(_problem(command))
