"""Issues for unexpected failures: opened once, updated, and closed when a complete run has the failure no more."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, RunRecord, write_run
from report.commands import report
from report.issues import LABEL, MOST_OPENED, Action, OpenIssue, github, issues, open_issues, plan
from tests.report.samples import HOSTILE, cell, incremental, run
from tests.support.messages import printed, refused

pytestmark = pytest.mark.unit


def _broken(architecture: str = "llama", message: str = "it broke", signature: str = "lower:a") -> CellRecord:
    return cell(
        architecture=architecture, verdict=Verdict.FAIL, stage=Stage.LOWER, signature=signature, message=message
    )


def _as_open(record: RunRecord, number: int = 7) -> OpenIssue:
    """The issue that a run opens."""
    (action,) = plan(issues(record, "main"), "main", [], record)
    return OpenIssue(number, action.arguments[action.arguments.index("--title") + 1], action.text)


def _planned(record: RunRecord, *existing: OpenIssue) -> list[Action]:
    return plan(issues(record, "main"), "main", existing, record)


def test_a_cause_is_one_issue_however_many_cells_it_has() -> None:
    found = issues(run(_broken("llama"), _broken("gpt2"), cell()), "main", "https://site.example/main")
    (issue,) = found.values()
    assert issue.title == "main: a (lower)"
    assert "2 cells of `llama`, `gpt2`" in issue.body
    assert "https://site.example/main/causes/" in issue.body
    assert "~~~text\nit broke\n~~~" in issue.body


def test_known_failures_and_passes_have_none() -> None:
    known = dataclasses.replace(_broken(), verdict=Verdict.EXPECTED_FAILURE)
    assert issues(run(known, cell()), "main") == {}


def test_an_issue_is_opened_once_updated_and_closed() -> None:
    first = run(_broken())
    (opening,) = _planned(first)
    assert opening.arguments[:4] == ("issue", "create", "--label", LABEL)
    there = _as_open(first)
    assert _planned(first, there) == []
    (update,) = _planned(run(_broken(), _broken("gpt2")), there)
    assert update.arguments[:3] == ("issue", "edit", "7")
    assert "2 cells" in update.text
    (closing,) = _planned(run(cell()), there)
    assert closing.arguments[:3] == ("issue", "close", "7")


@pytest.mark.parametrize(
    "unjudged",
    [
        run(),
        run(cell(architecture="gpt2")),
        run(cell("PAR-2")),
        run(cell(verdict=Verdict.NOT_APPLICABLE)),
        run(cell(verdict=Verdict.NOT_APPLICABLE), cell(architecture="gpt2")),
        run(cell(verdict=Verdict.HARNESS_ERROR), cell(architecture="gpt2")),
        incremental(cell(architecture="gpt2"), left_out=(cell(),)),
    ],
)
def test_a_run_that_did_not_judge_the_cells_of_an_issue_leaves_it_open(unjudged: RunRecord) -> None:
    there = _as_open(run(_broken()))
    assert [each for each in _planned(unjudged, there) if each.arguments[1] != "create"] == []


def test_an_issue_keeps_the_cells_that_an_update_did_not_judge() -> None:
    there = _as_open(run(_broken(), _broken("gpt2")))
    (update,) = _planned(run(_broken()), there)
    there = dataclasses.replace(there, body=update.text)
    assert _planned(run(cell()), there) == []
    (closing,) = _planned(run(cell(), cell(architecture="gpt2")), there)
    assert closing.arguments[:2] == ("issue", "close")


def test_an_issue_without_cells_is_updated_and_never_closed() -> None:
    there = _as_open(run(_broken()))
    there = dataclasses.replace(there, body=re.sub(" [0-9a-f]{8} -->", " -->", there.body, count=1))
    assert _planned(run(cell()), there) == []
    (update,) = _planned(run(_broken()), there)
    there = dataclasses.replace(there, body=update.text)
    (closing,) = _planned(run(cell()), there)
    assert closing.arguments[:2] == ("issue", "close")


def test_an_issue_of_very_many_cells_fits_and_is_never_closed() -> None:
    names = [f"model{number}" for number in range(8000)]
    there = _as_open(run(*map(_broken, names)))
    assert len(there.body) < 65536
    assert _planned(run(*(cell(architecture=name) for name in names)), there) == []
    assert len(_as_open(run(*map(_broken, names[:7000]))).body) < 65536


def test_nothing_is_closed_by_a_run_that_is_not_complete_or_of_another_name() -> None:
    there = _as_open(run(_broken()))
    good = run(cell())
    partial = dataclasses.replace(good, run=dataclasses.replace(good.run, complete=False))
    assert plan({}, "main", [there], partial) == []
    assert plan({}, "release", [there], good) == []
    by_hand = OpenIssue(8, "a question", "with the label")
    assert plan({}, "main", [by_hand], good) == []


def test_a_night_in_which_everything_fails_opens_no_more_than_a_bound() -> None:
    broken = run(*(_broken(signature=f"lower:{'a' * number}:b") for number in range(1, 40)))
    assert len(plan(issues(broken, "main"), "main", [], broken)) == MOST_OPENED


@pytest.mark.parametrize("text", [*HOSTILE, "~~~\n@everyone\n~~~", "~~~~text"])
def test_a_message_stays_in_its_fence(text: str) -> None:
    (issue,) = issues(run(_broken(message=text)), "main").values()
    fence, _, rest = issue.body.partition("text\n")
    mark = fence.splitlines()[-1]
    assert set(mark) == {"~"}
    inside, closing, _ = rest.partition(f"\n{mark}\n")
    assert closing
    assert mark not in inside


def test_the_command_calls_gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, calls = tmp_path / "run.json", tmp_path / "calls"
    write_run(record, run(_broken(), cell("PAR-2")))
    there = [dataclasses.asdict(_as_open(run(cell("PAR-2", Verdict.FAIL, Stage.LOWER, signature="lower:b")), 3))]
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    (tmp_path / "open.json").write_text(json.dumps(there), encoding="utf-8")
    script = f'#!/bin/sh\necho "$1 $2" >> {calls}\nif [ $2 = list ]; then cat {tmp_path}/open.json; fi\n'
    gh.write_text(script, encoding="utf-8")
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gh.parent}{os.pathsep}{os.environ['PATH']}")
    dry = CliRunner().invoke(report, ["issues", str(record), "--name", "main", "--dry-run"])
    assert dry.output == "open: main: a (lower)\nclose #3: main: b (lower)\n"
    assert calls.read_text() == "issue list\n"
    assert CliRunner().invoke(report, ["issues", str(record), "--name", "main"]).exit_code == 0
    assert calls.read_text().splitlines()[1:] == ["issue list", "issue create", "issue close"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "run.json"
    write_run(record, run(cell()))
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = CliRunner().invoke(report, ["issues", str(record)])
    assert ended.exit_code == 2
    printed(ended.output, "missing-package")
    ended = CliRunner().invoke(report, ["issues", str(record), "--name", "a b"])
    assert ended.exit_code == 2
    printed(ended.output, "invalid-name")
    (tmp_path / "gh").write_text("#!/bin/sh\necho 'not signed in' >&2\nexit 4\n")
    with refused("gh-failed"):  # it is not executable
        github(["issue", "list"], "")
    (tmp_path / "gh").chmod(0o755)
    with refused("gh-failed"):
        github(["issue", "list"], "")


@pytest.mark.parametrize("output", ["", "A new release of gh is available", "{}", '[{"number": 7}]'])
def test_a_list_of_issues_that_is_not_one_is_refused(output: str) -> None:
    with refused("gh-failed"):
        open_issues(lambda _arguments, _text: output)


@pytest.mark.parametrize("site", ["example.org", "javascript:alert(1)"])
def test_a_site_is_a_web_address(tmp_path: Path, site: str) -> None:
    write_run(tmp_path / "run.json", run(cell()))
    ended = CliRunner().invoke(report, ["issues", str(tmp_path / "run.json"), "--site", site])
    assert ended.exit_code == 2
    assert "is not an http or https address" in ended.output
