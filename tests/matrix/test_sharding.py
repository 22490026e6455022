"""Shards: every architecture in exactly one of them, none without work, and all of about one length."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.verdicts import Verdict
from conformance.matrix.sharding import Shard, division, durations, read_shard, share, updated_durations
from tests.report.samples import cell, incremental, run
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_NAMES = [f"model{number}" for number in range(12)]


@given(st.lists(st.sampled_from(_NAMES), min_size=1, unique=True), st.data())
@settings(deadline=None)
def test_shards_part_the_architectures(architectures: list[str], data: st.DataObject) -> None:
    of = data.draw(st.integers(1, len(architectures)))
    seconds = data.draw(st.dictionaries(st.sampled_from(_NAMES), st.floats(0, 1000)))
    shards = [share(architectures, Shard(number, of), seconds) for number in range(1, of + 1)]
    assert all(shards)
    assert sorted(name for shard in shards for name in shard) == sorted(architectures)
    for shard in shards:
        assert list(shard) == [name for name in architectures if name in shard]


def test_the_longest_stand_alone() -> None:
    seconds = {"a": 100.0, "b": 40.0, "c": 30.0, "d": 30.0}
    assert share(["b", "a", "c", "d"], Shard(1, 2), seconds) == ("a",)
    assert share(["b", "a", "c", "d"], Shard(2, 2), seconds) == ("b", "c", "d")


def test_other_durations_make_another_division() -> None:
    names = ["gemma2", "gpt2", "llama"]
    assert division(names, {"gpt2": 1.0}) == division(names, {"gpt2": 1.0, "lfm2": 2.0})
    assert division(names, {"gpt2": 1.0}) != division(names, {"gpt2": 2.0})
    assert division(names, {}) != division(names[1:], {})


def test_an_untimed_one_counts_as_the_median() -> None:
    seconds = {"a": 100.0, "b": 60.0, "c": 10.0}
    assert [share(["a", "b", "c", "new"], Shard(number, 2), seconds) for number in (1, 2)] == [("a", "c"), ("b", "new")]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/2", "1/2/3", "", "²/3"])
def test_a_text_that_is_not_a_shard_is_refused(text: str) -> None:
    with refused("invalid-shard"):
        read_shard(text)


def test_more_shards_than_architectures_are_refused() -> None:
    with refused("invalid-shard"):
        share(["a", "b"], Shard(1, 3), {})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[1]", "invalid-durations"),
        ('{"llama": "long"}', "invalid-durations"),
        ('{"llama": -1}', "invalid-durations"),
        ('{"llama": NaN}', "invalid-durations"),
        ('{"llama"', "invalid-json"),
    ],
)
def test_invalid_durations_are_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "durations.json"
    path.write_text(text)
    with refused(code):
        durations(path)


def test_a_run_updates_what_it_judged(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    path.write_text('{"gpt2": 3, "llama": 4}\n')
    cells = [
        dataclasses.replace(cell(clause, architecture=architecture), duration_s=seconds)
        for clause, architecture, seconds in (("PAR-1", "llama", 1.5), ("PAR-3", "llama", 1), ("PAR-1", "phi3", 7))
    ]
    assert updated_durations(run(*cells), path) == ["llama: 4 s → 2.5 s", "phi3: not known → 7 s"]
    assert durations(path) == {"gpt2": 3, "llama": 2.5, "phi3": 7}


def test_an_architecture_of_which_cells_were_not_judged_keeps_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    path.write_text('{"gpt2": 3, "llama": 4, "phi3": 5}\n')
    cells = [
        dataclasses.replace(cell(clause, verdict, architecture=architecture), duration_s=seconds)
        for clause, architecture, verdict, seconds in (
            ("PAR-1", "llama", Verdict.PASS, 0.1),
            ("PAR-3", "llama", Verdict.NOT_RUN, 0),  # interrupted
            ("PAR-1", "phi3", Verdict.PASS, 0.2),
            ("PAR-1", "gpt2", Verdict.FAIL, 7),
        )
    ]
    left_out = (cell("PAR-3", architecture="phi3"), cell("SEN-1", architecture="olmo+options"))
    record = incremental(*cells, left_out=left_out)
    skipped = "skipped, since not all of their cells were judged: llama, phi3"
    assert updated_durations(record, path) == ["gpt2: 3 s → 7 s", skipped]
    assert durations(path) == {"gpt2": 7, "llama": 4, "phi3": 5}


def test_committed_durations_can_be_read() -> None:
    assert durations()
