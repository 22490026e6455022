"""Failure bundles hold what it takes to see a failure again, with `replay` and with their own script."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.cli.main import main
from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.time_scale import scaled
from conformance.core.verdicts import CellFailedError, Verdict
from conformance.failures.capture import bundle_of
from conformance.failures.outcome import Outcome
from conformance.failures.replay import Result, replay
from conformance.models.variations import row_values
from conformance.pipeline.builder import Builder
from conformance.records.bundle import FACTS, Bundle, BundleError, folder_name, read_bundle, write_bundle
from conformance.runner.judge import judge

pytestmark = [pytest.mark.torch, pytest.mark.process]

CELL = Cell("llama", "tests.faults.programs:zeroes_cache", EXPORTED, Mode.DECODE, "PAR-1")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """The bundle of a subject that forgets everything, and its folder."""
    case = Case(CELL, Builder(), examples=5)
    with pytest.raises(CellFailedError) as caught:
        checks()[CELL.clause](case)
    outcome = Outcome(caught.value)
    record = judge(CELL, outcome, None, versions={"torch": "0"}, metrics={}, duration_s=0.0)
    assert record.verdict is Verdict.FAIL
    bundle, files = bundle_of(case, outcome, record, {"torch": "0"})
    return bundle, write_bundle(tmp_path_factory.mktemp("failures"), bundle, files)


def test_bundle_holds_all_there_is_to_know(found: tuple[Bundle, Path]) -> None:
    bundle, folder = found
    assert read_bundle(folder) == bundle
    assert {path.name for path in folder.iterdir()} == {FACTS, "reproduce.py", "weights.pt", "program.pt2", "logits.pt"}
    assert bundle.cell == CELL
    assert bundle.signature == "execute:logits-differ"
    assert bundle.config is not None
    assert bundle.config["model_type"] == "llama"
    assert bundle.calls is not None
    assert len(bundle.calls) == 2  # the second token is the first that needs the cache


def test_a_bundle_of_the_same_cell_takes_the_place_of_the_last(found: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, _ = found
    write_bundle(tmp_path, bundle, {"stale": b""})
    folder = write_bundle(tmp_path, dataclasses.replace(bundle, message="newer"), {})
    assert [path.name for path in folder.iterdir()] == [FACTS]
    assert read_bundle(folder).message == "newer"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("subject", ["a/../../b:c", "..", "x" * 300, "ü:\n"])
def test_folder_stays_in_its_directory(subject: str) -> None:
    name = folder_name(Cell("llama", subject, "xnnpack", Mode.DECODE, "PAR-1"))
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name) < 200
    assert name != folder_name(Cell("llama", subject + "y", "xnnpack", Mode.DECODE, "PAR-1"))


@pytest.mark.parametrize(
    ("changes", "result", "message"),
    [
        ({}, Result.STILL_FAILING, "logits"),
        ({"signature": "execute:else"}, Result.STILL_FAILING, "expected execute:else, got execute:logits-differ"),
        ({"subject": "reference"}, Result.FIXED, "PAR-1 passes"),
        ({"subject": "nobody:knows"}, Result.CANNOT_RUN, "No such exporter"),
        ({"architecture": "lama"}, Result.CANNOT_RUN, "no architecture lama"),
        ({"backend": "quantum"}, Result.CANNOT_RUN, "No such backend"),
        ({"clause": "PAR-99"}, Result.CANNOT_RUN, "no check"),
        ({"config": None}, Result.CANNOT_RUN, "no config"),
        ({"max_cache_len": 5000}, Result.CANNOT_RUN, "5000 cache positions; this suite has 4096 at most"),
    ],
)
def test_replay(found: tuple[Bundle, Path], changes: dict[str, object], result: Result, message: str) -> None:
    done = replay(dataclasses.replace(found[0], **changes), store=None, trusted=True)  # type: ignore[arg-type]
    assert done.result is result
    assert message in done.message


def test_replay_of_a_fixtures_fields_tries_its_variations(found: tuple[Bundle, Path]) -> None:
    """SEN-3 counts a field as seen that a variation sets: bloom's fixture alone would fail, whatever is mended."""
    changes = {"architecture": "bloom", "subject": None, "backend": EAGER, "mode": None, "calls": None}
    bundle = dataclasses.replace(found[0], **changes, clause="SEN-3", config=row_values("bloom"))  # type: ignore[arg-type]
    done = replay(bundle, store=None)
    assert (done.result, done.message) == (Result.FIXED, "SEN-3 passes")


def test_its_own_script_shows_the_failure_without_the_suite(found: tuple[Bundle, Path], tmp_path: Path) -> None:
    command = [sys.executable, str(found[1] / "reproduce.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=scaled(300))
    assert done.returncode == 1
    assert "it still fails" in done.stderr


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_bundle_is_refused_in_one_sentence(
    found: tuple[Bundle, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = (found[1] / FACTS).read_text()
    facts = json.loads(text)
    key = data.draw(st.sampled_from(sorted(facts)))
    anything = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3)
    damaged = data.draw(
        st.just(json.dumps({**facts, key: data.draw(anything)}))
        | st.integers(0, len(text) - 2).map(lambda cut: text[:cut])
        | st.just(json.dumps({**facts, "__reduce__": "os.system"}))
    )
    folder = tmp_path_factory.mktemp("damaged")
    (folder / FACTS).write_text(damaged)
    try:
        message = repr(read_bundle(folder))
    except BundleError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


def test_no_bundle_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["failure", "replay", str(tmp_path / "none")]) == 2
    printed, said = capsys.readouterr()
    assert printed.startswith("CANNOT RUN [invalid-bundle]: ")
    assert not said


def test_the_folder_of_all_bundles_names_one(found: tuple[Bundle, Path]) -> None:
    with pytest.raises(BundleError, match=f"it holds 1 bundle; name one, such as {found[1]}"):
        read_bundle(found[1].parent)
