"""Pages that are generated are up to date."""

from __future__ import annotations

from pathlib import Path

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


def test_pages_are_up_to_date() -> None:
    result = CliRunner().invoke(main, ["docs", "--check"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_each_backend_has_a_page_and_nothing_else_has() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "reference" / "backends").iterdir()}
    assert pages == set(BACKENDS)


def test_each_backend_names_its_device() -> None:
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
