"""What a resumed run keeps of its record, and the records that it refuses."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest

from conformance.core.verdicts import Verdict
from conformance.records.environment import versions
from conformance.records.journal import Journal
from conformance.records.resume import judged_so_far
from conformance.records.run import CellRecord, Environment, RunInfo, RunRecord, write_run
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_ASKED: dict[str, str | int | None] = {"arch": "llama", "examples": None}


def _cell(clause: str, verdict: Verdict) -> CellRecord:
    return CellRecord(f"llama/eager/{clause}", "llama", None, "eager", None, clause, verdict)


def _write(path: Path) -> RunRecord:
    info = RunInfo(id="1", started="then", finished=None, complete=False, options=_ASKED, seed=None)
    cells = (_cell("SEN-1", Verdict.PASS), _cell("SEN-2", Verdict.NOT_RUN), _cell("PAR-8", Verdict.CRASH))
    run = RunRecord(1, info, Environment(platform.python_version(), "linux", "a cpu", versions()), cells)
    write_run(path, run)
    return run


def test_what_has_a_verdict_is_kept(tmp_path: Path) -> None:
    run = _write(tmp_path / "run.json")
    kept = judged_so_far(tmp_path / "run.json", _ASKED, versions(), None)
    assert kept == dataclasses.replace(run, cells=(run.cells[0], run.cells[2]))


def test_the_journal_of_a_killed_run_goes_before_the_record(tmp_path: Path) -> None:
    run = _write(tmp_path / "run.json")
    Journal(tmp_path / "run.jsonl", run.run, run.environment, cells=[_cell("SEN-2", Verdict.PASS)])
    assert judged_so_far(tmp_path / "run.json", _ASKED, versions(), None).cells == (_cell("SEN-2", Verdict.PASS),)
    (tmp_path / "run.json").unlink()
    assert judged_so_far(tmp_path / "run.json", _ASKED, versions(), None).cells == (_cell("SEN-2", Verdict.PASS),)


def test_without_a_record_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with refused("nothing-to-resume"):
        judged_so_far(tmp_path / "run.json", _ASKED, versions(), None)


@pytest.mark.parametrize(
    ("asked", "packages", "seed"),
    [
        ({"arch": "gpt2"}, {}, None),
        ({}, {"torch": "9.9"}, None),
        ({}, {}, 7),
    ],
)
def test_another_run_is_not_added_to(
    tmp_path: Path, asked: dict[str, str], packages: dict[str, str], seed: int | None
) -> None:
    _write(tmp_path / "run.json")
    with refused("resume-differs"):
        judged_so_far(tmp_path / "run.json", {**_ASKED, **asked}, {**versions(), **packages}, seed)


def test_another_commit_is_not_added_to_and_changes_on_top_of_the_same_are(tmp_path: Path) -> None:
    path, at = tmp_path / "run.json", "a" * 40
    run = _write(path)
    assert judged_so_far(path, _ASKED, versions(), None, at)  # an older record does not say
    write_run(path, dataclasses.replace(run, run=dataclasses.replace(run.run, commit=at)))
    assert judged_so_far(path, _ASKED, versions(), None)
    assert judged_so_far(path, _ASKED, versions(), None, f"{at}-dirty")
    with refused("resume-differs"):
        judged_so_far(path, _ASKED, versions(), None, "b" * 40)


def test_verdicts_of_other_code_are_not_added_to(tmp_path: Path) -> None:
    """A checkout of Transformers keeps its version while its code changes."""
    path, then = (
        tmp_path / "run.json",
        {"the suite": "1", "modeling code of llama": "2", "fixture and row of llama": "3"},
    )
    run = _write(path)
    assert judged_so_far(path, _ASKED, versions(), None, fingerprints=then), "an older record does not say"
    write_run(path, dataclasses.replace(run, run=dataclasses.replace(run.run, fingerprints=then)))
    assert judged_so_far(path, _ASKED, versions(), None, fingerprints=then)
    now = then | {"modeling code of llama": "4", "fixture and row of llama": "5"}
    with refused("resume-differs"):
        judged_so_far(path, _ASKED, versions(), None, fingerprints=now)


def test_another_interpreter_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "run.json")
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    with refused("resume-differs"):
        judged_so_far(tmp_path / "run.json", _ASKED, versions(), None)
