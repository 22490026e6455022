"""`conformance grid` runs each pair once, with the same options, and makes the page of what is complete and equal."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import TypeAdapter

from conformance.cli import grid as gridding
from conformance.cli.main import main
from conformance.cli.version_pairs import Pair, read_pairs
from conformance.core.console import CommandError
from conformance.core.paths import ROOT
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix import fingerprints, schema
from conformance.matrix.yaml_file import MatrixError
from conformance.records import environment
from conformance.records.run import Environment, JournalHeader, RunInfo, RunRecord, journal_of, load_run, write_run
from tests.report.samples import STARTED, cell
from tests.support.messages import printed

pytestmark = pytest.mark.unit

_PAIRS = """\
- {transformers: "5.23", executorch: "1.4"}
- {transformers: "5.23", executorch: "1.5"}
- {transformers: "5.24.0", executorch: "1.5", torch: "2.13.1"}
"""
_NAMES = ["5.23+1.4", "5.23+1.5", "5.24.0+1.5+2.13.1"]
_COMMIT, _SUITE, _MATRIX = "c0ffee" * 7, "0123456789abcdef", "0123456789ab"
_FAILED = cell("PAR-3", Verdict.FAIL, Stage.EXECUTE, signature="execute:logits-differ")
_LEFT = cell("PAR-3", Verdict.NOT_RUN)


def _record(pair: Pair, arguments: Sequence[str]) -> RunRecord:
    """A complete record, as a run with these arguments writes it."""
    given = dict(argument[2:].split("=", 1) for argument in arguments if "=" in argument)
    options: dict[str, str | int | None] = dict.fromkeys(("arch", "variation", "backend", "shard", "since"))
    options |= {name: given.get(name) for name in ("arch", "backend", "mode", "clause", "tier")}
    options["subject"] = given.get("exporter", "reference")
    options["examples"] = int(given["max-examples"]) if "max-examples" in given else None
    info = RunInfo(
        id=pair.name,
        started=STARTED,
        finished=STARTED,
        complete=True,
        options={**options, "matrix": _MATRIX},
        seed=None,
        commit=_COMMIT,
        fingerprints={"the suite": _SUITE},
    )
    versions = {name: f"{version}+cpu" if name == "torch" else version for name, version in pair.versions.items()}
    packages = {**versions, "hypothesis": "6.170.15"}
    return RunRecord(1, info, Environment("3.11.7", "Linux", "cpu", packages), (cell(), cell("PAR-3")))


def _with(run: RunRecord, *, complete: bool = True, python: str = "3.11.7", **changes: Any) -> RunRecord:
    return dataclasses.replace(
        run,
        run=dataclasses.replace(run.run, complete=complete),
        environment=dataclasses.replace(run.environment, python=python),
        **changes,
    )


Change = Callable[[RunRecord], RunRecord | None]


class _Grid:
    """The command with a runner that writes records and makes no environment.

    Attributes:
        runs: The name of each pair that was run, and the options.
        ends: By pair, what becomes of its record; None for none.
        codes: By pair, the exit code of its run.
    """

    def __init__(self, folder: Path) -> None:
        self.output = folder / "grid"
        self.page = folder / "page.md"
        self.versions = folder / "versions.yaml"
        self.versions.write_text(_PAIRS, encoding="utf-8")
        self.runs: list[tuple[str, list[str]]] = []
        self.ends: dict[str, Change] = {}
        self.codes: dict[str, int] = {}

    def run_tox(self, pair: Pair, arguments: Sequence[str], environments: Path) -> int:
        assert environments == self.output / "environments" / pair.name
        assert f"--output={self.output / pair.name}.json" in arguments
        assert f"--failures-dir={self.output}/failures/{pair.name}" in arguments
        folders = ("--output=", "--failures-dir=")
        self.runs.append((pair.name, [each for each in arguments if not each.startswith(folders)]))
        run: RunRecord | None = _record(pair, arguments)
        if run is not None and pair.name in self.ends:
            run = self.ends[pair.name](run)
        if run is not None:
            write_run(self.output / f"{pair.name}.json", run)
        return self.codes.get(pair.name, 0)

    def __call__(self, *options: str) -> Result:
        self.runs.clear()
        paths = ["--versions", str(self.versions), "--output", str(self.output), "--page", str(self.page)]
        return CliRunner().invoke(main, ["grid", *paths, *options])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.runs]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Grid:
    made = _Grid(tmp_path)
    monkeypatch.setattr(gridding, "run_tox", made.run_tox)
    monkeypatch.setattr(environment, "commit", lambda _: f"{_COMMIT}-dirty")
    monkeypatch.setattr(fingerprints, "suite_fingerprint", lambda: _SUITE)
    monkeypatch.setattr(schema, "matrix_digest", lambda: _MATRIX)
    return made


def _lines(result: Result) -> list[str]:
    """What it says at the end."""
    lines = result.stdout.splitlines()
    return [line.removeprefix("grid: ") for line in lines if not line.partition(" (")[2].partition(" of ")[0].isdigit()]


def test_each_pair_is_run_in_order_with_the_same_options(grid: _Grid) -> None:
    result = grid("--tier", "smoke", "--exporter", "reference,transformers", "--max-examples", "5", "-n1")
    assert result.exit_code == 0, result.output
    options = ["-n1", "--exporter=reference,transformers", "--tier=smoke", "--max-examples=5"]
    assert grid.runs == [(name, options) for name in _NAMES]
    first, *_ = result.stdout.splitlines()
    assert first == "grid: 5.23+1.4 (1 of 3): transformers 5.23.0, executorch 1.4.1, torch 2.13.0"
    *each, last = _lines(result)
    assert each == [f"{name}: ✓ no unexpected results (ran)" for name in _NAMES]
    assert last.startswith("wrote ")
    assert "Transformers 5.24.0<br>ExecuTorch 1.5.1<br>torch 2.13.1+cpu" in grid.page.read_text(encoding="utf-8")


def test_what_is_complete_is_not_run_again(grid: _Grid) -> None:
    grid("--tier", "smoke")
    page = grid.page.read_text(encoding="utf-8")
    grid.page.unlink()
    result = grid("--tier", "smoke")
    assert (result.exit_code, grid.runs) == (0, [])
    assert _lines(result)[:3] == [f"{name}: ✓ no unexpected results (reused)" for name in _NAMES]
    assert grid.page.read_text(encoding="utf-8") == page


def test_a_record_of_other_options_is_run_anew(grid: _Grid) -> None:
    grid("--tier", "smoke", "--only", _NAMES[1])
    result = grid("--tier", "core")
    assert (result.exit_code, grid.names) == (0, _NAMES)
    assert "grid: 5.23+1.5: not reused: in 5.23+1.5.json, --tier is smoke, expected core" in result.stdout
    assert all("--resume" not in options for _, options in grid.runs)


@pytest.mark.parametrize("change", ["commit", "fingerprints", "seed", "shard", "transformers"])
def test_a_record_of_another_commit_or_version_is_run_anew(grid: _Grid, change: str) -> None:
    grid()
    path = grid.output / "5.23+1.4.json"
    run = load_run(path)
    if change == "transformers":
        packages = {**run.environment.packages, "transformers": "5.22.2"}
        run = dataclasses.replace(run, environment=dataclasses.replace(run.environment, packages=packages))
    else:
        changes: dict[str, Any] = {
            "commit": {"commit": "0" * 40},
            "fingerprints": {"fingerprints": {"the suite": "0"}},
            "seed": {"seed": 3},
            "shard": {"options": {**run.run.options, "shard": "1/2"}},
        }
        run = dataclasses.replace(run, run=dataclasses.replace(run.run, **changes[change]))
    write_run(path, run)
    assert grid().exit_code == 0
    assert grid.names == ["5.23+1.4"]


def test_a_partial_run_is_resumed(grid: _Grid) -> None:
    grid.ends["5.23+1.5"] = lambda run: _with(run, complete=False, cells=(cell(), _LEFT))
    grid.codes["5.23+1.5"] = 2
    result = grid()
    assert (result.exit_code, grid.names) == (1, _NAMES)
    expected = "5.23+1.5: not complete: 1 cell of 2 not run; run the same command again (ran)"
    assert expected in _lines(result)
    assert "page.md was not written: no complete record of 5.23+1.5" in result.stdout
    assert not grid.page.exists()
    grid.ends.clear()
    grid.codes.clear()
    result = grid()
    assert (result.exit_code, grid.runs) == (0, [("5.23+1.5", ["-nauto", "--resume"])])
    assert "5.23+1.5: ✓ no unexpected results (resumed)" in _lines(result)
    assert grid.page.exists()


def test_a_journal_alone_is_resumed(grid: _Grid) -> None:
    grid()
    path = grid.output / "5.23+1.4.json"
    run = load_run(path)
    journal = dataclasses.replace(run.run, complete=False, finished=None)
    text = TypeAdapter(JournalHeader).dump_json(JournalHeader(1, journal, run.environment)).decode()
    journal_of(path).write_text(f"{text}\n", encoding="utf-8")
    path.unlink()
    grid()
    assert [(name, "--resume" in options) for name, options in grid.runs] == [("5.23+1.4", True)]


def test_unexpected_results_are_printed_with_the_pair_and_their_number(grid: _Grid) -> None:
    grid.ends["5.23+1.4"] = lambda run: _with(run, cells=(cell(), _FAILED))
    grid.codes["5.23+1.4"] = 1
    result = grid()
    assert (result.exit_code, grid.names) == (1, _NAMES)
    assert "5.23+1.4: ✗ 1 unexpected result (ran)" in _lines(result)
    assert "1 of 3 pairs not as expected: 5.23+1.4" in _lines(result)
    assert "✗ wrong result" in grid.page.read_text(encoding="utf-8")
    result = grid()
    assert (result.exit_code, grid.runs) == (1, [])
    assert "5.23+1.4: ✗ 1 unexpected result (reused)" in _lines(result)


def test_a_run_that_did_not_begin_is_named_and_the_others_are_run(grid: _Grid) -> None:
    grid.ends["5.23+1.4"] = lambda _: None
    grid.codes["5.23+1.4"] = 1
    result = grid()
    assert (result.exit_code, grid.names) == (1, _NAMES)
    expected = "5.23+1.4: no record: tox exited with 1; the run did not begin; its output is above (ran)"
    assert expected in _lines(result)


def test_an_exit_code_that_the_record_does_not_explain_is_printed(grid: _Grid) -> None:
    grid.codes["5.23+1.4"] = 3
    result = grid()
    assert result.exit_code == 1
    assert any(line.startswith("5.23+1.4: no unexpected results, but tox exited with 3") for line in _lines(result))


def test_a_run_that_judged_nothing_is_not_as_expected(grid: _Grid) -> None:
    grid.ends["5.23+1.4"] = lambda run: _with(run, cells=(cell("PAR-1", Verdict.NOT_APPLICABLE),))
    result = grid()
    assert result.exit_code == 1
    assert "5.23+1.4: ✗ nothing was judged (ran)" in _lines(result)


def test_only_some_pairs_are_run_and_the_page_waits_for_the_others(grid: _Grid) -> None:
    result = grid("--only", "5.24.0+1.5+2.13.1, 5.23+1.4")
    assert (result.exit_code, grid.names) == (0, [_NAMES[0], _NAMES[2]])
    assert "page.md was not written: no complete record of 5.23+1.5" in result.stdout
    result = grid("--only", "5.23+1.5")
    assert (result.exit_code, grid.names) == (0, ["5.23+1.5"])
    assert grid.page.exists()


@pytest.mark.parametrize(
    ("only", "message"),
    [("5.23+1.6", "No such pair '5.23+1.6'. Did you mean '5.23+1.5'?"), (",", "no pair given")],
)
def test_a_pair_that_does_not_exist(grid: _Grid, only: str, message: str) -> None:
    result = grid("--only", only)
    assert (result.exit_code, grid.runs) == (2, [])
    assert message in result.stderr


def test_an_interrupted_grid_prints_how_to_continue(grid: _Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: RunRecord) -> RunRecord:
        raise KeyboardInterrupt

    grid.ends["5.23+1.5"] = interrupted
    monkeypatch.setattr(sys, "argv", ["conformance", "grid", "--tier", "smoke"])
    result = grid()
    assert (result.exit_code, grid.names) == (130, _NAMES[:2])
    *_, first, last = _lines(result)
    assert first == "5.23+1.4: ✓ no unexpected results (ran)"
    assert last.startswith("interrupted; to continue, run ")
    assert last.endswith("grid --tier smoke")
    grid.ends.clear()
    assert grid().exit_code == 0
    assert grid.names == _NAMES[1:]


def test_no_page_is_made_of_unequal_runs(grid: _Grid) -> None:
    grid.ends["5.23+1.5"] = lambda run: _with(run, python="3.12.1")
    result = grid()
    assert result.exit_code == 1
    assert printed(result.stderr, "runs-differ").startswith("Python: 3.11.7 in the run with Transformers 5.23.0, Exec")
    assert not grid.page.exists()


# The pairs


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "expected a list of pairs"),
        ("transformers: '5.23'", 1, "expected a list of pairs"),
        ("- 5.23", 1, "expected a mapping with transformers and executorch"),
        ("- {transformers: '5.23'}", 1, "executorch is missing"),
        ("- {transformer: '5.23', executorch: '1.5'}", 1, "No such key 'transformer'. Did you mean 'transformers'?"),
        ("- {transformers: 5.10, executorch: '1.5'}", 1, "5.1 is a number, and so 5.10 would be 5.1"),
        ("- {transformers: main, executorch: '1.5'}", 1, "'main' is not a release, such as 5.23 or 5.23.0"),
        ("- {transformers: '5.39', executorch: '1.5'}", 1, "the nearest there is 5.24, or write 5.39.0"),
        ("- {transformers: '5.23', executorch: '1.3'}", 1, "the nearest there is 1.4, or write 1.3.0"),
        ("- {transformers: '5.23', executorch: '1.5', torch: '2.13'}", 1, "such as 2.13.0"),
        (f"{_PAIRS}- {{transformers: '5.23', executorch: '1.4'}}", 4, "the pair 5.23+1.4 is listed twice"),
        (
            "- {transformers: '5.23', executorch: '1.3.1'}",
            1,
            "ExecuTorch 1.3.1 needs torch>=2.12,<2.13, and constraints.txt pins 2.13.0, which goes with ExecuTorch "
            '1.4; the nearest torch that it goes with is "2.12.0"',
        ),
        (
            "- {transformers: '5.23', executorch: '1.5', torch: '2.12.1'}",
            1,
            "ExecuTorch 1.5 needs torch>=2.13,<2.14, and this is 2.12.1; the nearest torch that it goes with is",
        ),
        (
            "- {transformers: '4.56.2', executorch: '1.5'}",
            1,
            "the reference exporter needs transformers>=4.57, and this is 4.56.2; the nearest is 4.57",
        ),
    ],
)
def test_what_cannot_be_installed_is_an_error_before_anything_is(
    grid: _Grid, text: str, line: int, message: str
) -> None:
    grid.versions.write_text(text, encoding="utf-8")
    result = grid()
    assert (result.exit_code, grid.runs) == (1, [])
    assert result.stderr.startswith(f"error [invalid-matrix]: {grid.versions}:{line}: ")
    assert message in result.stderr


def test_an_older_transformers_goes_with_other_exporters(tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    path.write_text("- {transformers: '4.56.2', executorch: '1.5'}", encoding="utf-8")
    (pair,) = read_pairs(path, ["transformers"])
    assert pair.versions == {"transformers": "4.56.2", "executorch": "1.5.1", "torch": "2.13.0"}
    with pytest.raises(MatrixError):
        read_pairs(path, ["transformers", "reference"])


def test_the_projects_own_pairs_can_be_installed() -> None:
    pairs = read_pairs(ROOT / "fixtures" / "versions.yaml", ["reference"])
    assert len({pair.executorch for pair in pairs}) == 2
    assert "5.23+1.5" in {pair.name for pair in pairs}


# tox


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    path = tmp_path / "versions.yaml"
    path.write_text(_PAIRS, encoding="utf-8")
    return read_pairs(path, [])[2]


def test_tox_gets_the_versions_and_a_folder_for_each_pair(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = "[os.environ.get(name) for name in ('TRANSFORMERS_SPEC', 'EXECUTORCH_SPEC', 'TORCH_SPEC')]"
    code = f"import os, sys; print(*sys.argv[1:]); print({shown}, os.getcwd()); sys.exit(7)"
    monkeypatch.setattr(gridding, "_tox", lambda: [sys.executable, "-c", code])
    assert gridding.run_tox(pair, ["--tier=smoke"], tmp_path) == 7
    arguments, environ = capfd.readouterr().out.splitlines()
    assert arguments == f"run -c {ROOT}/tox.ini -e upstream --workdir {tmp_path} -- --tier=smoke"
    assert environ == f"['5.24.0', '1.5', '2.13.1'] {ROOT}"


def test_a_variable_of_the_users_shell_does_not_change_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "versions.yaml").write_text(_PAIRS, encoding="utf-8")
    first = read_pairs(tmp_path / "versions.yaml", [])[0]
    monkeypatch.setenv("TORCH_SPEC", "2.12.0")
    monkeypatch.setattr(
        gridding, "_tox", lambda: [sys.executable, "-c", "import os; print(os.environ.get('TORCH_SPEC'))"]
    )
    assert gridding.run_tox(first, [], tmp_path) == 0
    assert capfd.readouterr().out == "None\n"


def test_without_tox_the_error_has_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CommandError, match="needs tox, which is not installed: pip install tox") as caught:
        gridding._tox()
    assert caught.value.code == "missing-package"


def test_sigterm_interrupts_the_run_and_waits_for_its_record(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    code = (
        "import pathlib, time\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "try:\n    time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    time.sleep(0.2); pathlib.Path({str(ended)!r}).touch()\n"
    )
    monkeypatch.setattr(gridding, "_tox", lambda: [sys.executable, "-c", code])

    def kill() -> None:
        while not begun.exists():
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    threading.Thread(target=kill).start()
    with pytest.raises(KeyboardInterrupt), gridding._interrupted_by_sigterm():
        gridding.run_tox(pair, [], tmp_path)
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN
    assert ended.exists()
