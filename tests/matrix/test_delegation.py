"""Baselines: what is listed as left out, found by release, written from a record, and held against a partition."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from conformance.checks.test_lowering import assert_as_listed
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, Verdict
from conformance.matrix.delegation import baseline, updated
from conformance.pipeline.artifact import UndelegatedNode
from conformance.records.run import CellRecord, Environment, PartitionRecord, RunInfo, RunRecord
from tests.support.messages import refused

pytestmark = pytest.mark.torch

VERSIONS = {"executorch": "1.5.1", "torch": "2.13.0+cpu", "transformers": "5.23.0"}
PROGRAM = Program("llama", "reference", Mode.DECODE, "xnnpack")


def _run(
    left: dict[str, int], delegated: int = 6, executorch: str = "1.5.1", transformers: str = "5.23.0"
) -> RunRecord:
    partition = PartitionRecord({"XnnpackBackend": 1}, {"aten.mul.Tensor": delegated}, left, 10, 5, 4, 2, 1.0, 1.0)
    cell = CellRecord(
        "llama/reference/xnnpack/decode/LOW-1",
        *("llama", "reference", "xnnpack", "decode", "LOW-1"),
        verdict=Verdict.PASS,
        partition=partition,
    )
    info = RunInfo(id="1", started="2026-11-24T00:00:00+00:00", finished=None, complete=True, options={}, seed=None)
    versions = {**VERSIONS, "executorch": executorch, "transformers": transformers}
    return RunRecord(1, info, Environment("3.11", "linux", "a cpu", versions), (cell,))


def _update(run: RunRecord, directory: Path) -> list[str]:
    return updated(run, {"llama"}, directory)


def _left(**counts: int) -> list[UndelegatedNode]:
    return [
        UndelegatedNode(f"aten.{name}", "float32 [1]", "modeling.py:7 in forward", "")
        for name, count in counts.items()
        for _ in range(count)
    ]


def test_what_a_run_saw_is_listed(tmp_path: Path) -> None:
    assert baseline(PROGRAM, VERSIONS, tmp_path) is None
    message = _update(_run({"aten.mean": 2}), tmp_path)
    assert message == ["llama reference xnnpack decode: 6 delegated, 2 left out"]
    known = baseline(PROGRAM, VERSIONS, tmp_path)
    assert known is not None
    assert (known.left, known.share, known.exact) == ({"aten.mean": 2}, 0.75, True)
    assert known.source.endswith("executorch-1.5.1/llama.json")


def test_each_change_is_reported_and_nothing_else(tmp_path: Path) -> None:
    _update(_run({"aten.mean": 2}), tmp_path)
    assert _update(_run({"aten.mean": 2}), tmp_path) == []
    message = _update(_run({"aten.mean": 3, "aten.any": 1}, delegated=5), tmp_path)
    assert message == ["llama reference xnnpack decode: 6 → 5 delegated, aten.any 0 → 1, aten.mean 2 → 3"]


def test_a_list_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _update(_run({"aten.mean": 2}), tmp_path)
    monkeypatch.setattr(Path, "replace", Mock(side_effect=OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        _update(_run({"aten.mean": 3}), tmp_path)
    known = baseline(PROGRAM, VERSIONS, tmp_path)
    assert known is not None
    assert known.left == {"aten.mean": 2}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"architecture": "nosuch"}, "nosuch reference xnnpack decode: skipped, since nosuch has no row in the matrix"),
        ({"verdict": Verdict.FAIL}, "llama reference xnnpack decode: skipped, since LOW-1 ended with fail"),
    ],
)
def test_what_has_no_row_or_does_not_lower_is_skipped(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    run = _run({"aten.mean": 2})
    skipped = dataclasses.replace(run, cells=(dataclasses.replace(run.cells[0], **changed),))
    assert _update(skipped, tmp_path) == [reason]
    assert list(tmp_path.iterdir()) == []


def test_a_newer_release_is_held_to_the_one_before_it(tmp_path: Path) -> None:
    _update(_run({"aten.mean": 2}, executorch="1.4.1"), tmp_path)
    _update(_run({"aten.mean": 1}, executorch="1.5.1"), tmp_path)
    newer = baseline(PROGRAM, {**VERSIONS, "executorch": "1.6.0"}, tmp_path)
    older = baseline(PROGRAM, {**VERSIONS, "executorch": "1.4.1"}, tmp_path)
    assert newer is not None
    assert (newer.left, newer.exact) == ({"aten.mean": 1}, False)
    assert older is not None
    assert (older.left, older.exact) == ({"aten.mean": 2}, True)


def test_an_older_release_than_any_that_is_listed_is_held_to_the_oldest(tmp_path: Path) -> None:
    for release, left in (("1.4.1", 2), ("1.5.1", 1)):
        _update(_run({"aten.mean": left}, executorch=release), tmp_path)
    oldest = baseline(PROGRAM, {**VERSIONS, "executorch": "1.3.0"}, tmp_path)
    assert oldest is not None
    assert (oldest.left, oldest.exact) == ({"aten.mean": 2}, False)
    assert_as_listed(_left(mean=1), 7, oldest)
    with pytest.raises(ClauseViolationError) as caught:
        assert_as_listed(_left(mean=3), 5, oldest)
    assert caught.value.signature == "lower:left-out:aten.mean"


def test_another_transformers_is_not_an_exact_match(tmp_path: Path) -> None:
    _update(_run({"aten.mean": 2}), tmp_path)
    other = baseline(PROGRAM, {**VERSIONS, "transformers": "5.24.0"}, tmp_path)
    assert other is not None
    assert not other.exact


def test_an_older_transformers_has_a_list_of_its_own(tmp_path: Path) -> None:
    for release, left in (("5.22.2", 3), ("5.23.0", 2), ("4.57.6", 5), ("5.10.4", 4)):
        _update(_run({"aten.mean": left}, transformers=release), tmp_path)
    found = {
        release: baseline(PROGRAM, {**VERSIONS, "transformers": release}, tmp_path)
        for release in ("4.57.6", "5.10.4", "5.14.1", "5.22.2", "5.23.0", "5.24.0")
    }
    # 5.22.2 was there first, as the list of whatever is installed, and gave way to a newer one.
    assert {release: known and (known.left["aten.mean"], known.exact) for release, known in found.items()} == {
        "4.57.6": (5, True),
        "5.10.4": (4, True),
        "5.14.1": (4, False),  # as the newest before it
        "5.22.2": (4, False),
        "5.23.0": (2, True),
        "5.24.0": (2, False),
    }
    older: Any = found["5.10.4"]
    assert older.source.endswith("executorch-1.5.1/transformers-5.10.4/llama.json")
    with pytest.raises(ClauseViolationError):
        assert_as_listed(_left(mean=5), 6, older)
    # A release of ExecuTorch that nothing is listed for is held to the same Transformers under the nearest one.
    before: Any = baseline(PROGRAM, {**VERSIONS, "executorch": "1.4.1", "transformers": "4.57.6"}, tmp_path)
    assert (before.left["aten.mean"], before.exact) == (5, False)


_NO_VERSION = '{"made_with": {"transformers": "five"}, "delegated": 1, "left": {}}'


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"reference": 3}',
        '{"reference": {"xnnpack": {"decode": {"left": {}}}}}',
        '{"reference": {"xnnpack": {"decode": ' + _NO_VERSION + "}}}",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "executorch-1.5.1"
    folder.mkdir()
    (folder / "llama.json").write_text(content)
    with refused("invalid-baseline"):
        baseline(PROGRAM, VERSIONS, tmp_path)


def test_a_folder_without_a_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "executorch-next-one").mkdir()
    with refused("invalid-baseline"):
        baseline(PROGRAM, VERSIONS, tmp_path)


@pytest.mark.parametrize(
    ("found", "delegated", "signature"),
    [
        ({"mean": 2, "sort": 1}, 6, "lower:left-out:aten.sort"),
        ({"mean": 3}, 6, "lower:left-out:aten.mean"),
        ({"mean": 2}, 5, "lower:lower-share"),
        ({"mean": 1}, 6, "lower:better-than-listed"),
        ({"mean": 2}, 7, "lower:better-than-listed"),
    ],
)
def test_a_difference_is_a_failure(tmp_path: Path, found: dict[str, int], delegated: int, signature: str) -> None:
    _update(_run({"aten.mean": 2}), tmp_path)
    known = baseline(PROGRAM, VERSIONS, tmp_path)
    assert known is not None
    with pytest.raises(ClauseViolationError) as caught:
        assert_as_listed(_left(**found), delegated, known)
    assert caught.value.signature == signature


def test_a_new_operator_is_named_with_its_place(tmp_path: Path) -> None:
    _update(_run({"aten.mean": 2}), tmp_path)
    known: Any = baseline(PROGRAM, VERSIONS, tmp_path)
    with pytest.raises(ClauseViolationError) as caught:
        assert_as_listed(_left(mean=2, sort=1), 6, known)
    assert caught.value.observed == ("1 aten.sort more than listed: aten.sort (float32 [1]; modeling.py:7 in forward)")


def test_what_is_as_listed_or_better_than_an_older_release_passes(tmp_path: Path) -> None:
    _update(_run({"aten.mean": 2}), tmp_path)
    assert_as_listed(_left(mean=2), 6, baseline(PROGRAM, VERSIONS, tmp_path))  # type: ignore[arg-type]  # it is there
    newer: Any = baseline(PROGRAM, {**VERSIONS, "executorch": "1.6.0"}, tmp_path)
    assert_as_listed(_left(mean=1), 7, newer)


def test_files_read_well_in_a_diff(tmp_path: Path) -> None:
    _update(_run({"aten.mean": 2, "aten.any": 1}), tmp_path)
    text = (tmp_path / "executorch-1.5.1" / "llama.json").read_text()
    assert '\n     "aten.any": 1,\n     "aten.mean": 2\n' in text
    assert json.loads(text)["reference"]["xnnpack"]["decode"]["made_with"] == {
        "torch": "2.13.0",
        "transformers": "5.23.0",
    }
