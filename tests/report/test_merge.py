"""Merging: one record of several, or one sentence that says why not."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord
from report.errors import ReportError
from report.loading import load
from report.merging import Named, merge
from tests.report.harness import Report
from tests.report.samples import cell, run, runs

pytestmark = pytest.mark.unit


def _with(record: RunRecord, *, name: str | None = None, seed: int | None = None, **options: str) -> RunRecord:
    info = record.run
    return dataclasses.replace(
        record,
        run=dataclasses.replace(info, id=name or info.id, seed=seed, options={**info.options, **options}),
    )


def _shard(number: int, of: int, record: RunRecord) -> RunRecord:
    return _with(record, name=f"shard {number}", shard=f"{number}/{of}")


def _of_code(record: RunRecord, **fingerprints: str) -> RunRecord:
    return dataclasses.replace(record, run=dataclasses.replace(record.run, fingerprints=fingerprints))


_ONE = _shard(1, 2, run(cell(architecture="gpt2")))
_TWO = _shard(2, 2, run(cell(architecture="llama")))


def test_shards_make_one_whole_run(report: Report) -> None:
    out = report.directory / "new" / "merged.json"
    ended = report("merge", report.record(_TWO), report.record(_ONE), "-o", out)
    assert (ended.code, ended.out) == (0, f"{out}: 2 cells from 2 records\n")
    merged = load(out)
    assert [each.architecture for each in merged.cells] == ["gpt2", "llama"]
    assert merged.run.complete
    assert "shard" not in merged.run.options
    assert report("validate", out).code == 0


def test_shards_were_divided_alike_and_judged_by_the_same_code() -> None:
    one, two = _of_code(_ONE, suite="one", gpt2="a"), _of_code(_TWO, suite="one", llama="b")
    merged = merge([Named(each.run.id, _with(each, name=each.run.id, division="alike")) for each in (one, two)])
    assert merged.run.fingerprints == {"suite": "one", "gpt2": "a", "llama": "b"}
    assert "division" not in merged.run.options


def test_changes_on_top_of_one_commit_are_marked(report: Report) -> None:
    names = ("gpt2", "llama")
    commits = ("a" * 40, "a" * 40 + "-dirty")
    parts = [_shard(n, 2, run(cell(architecture=a), commit=c)) for n, a, c in zip((1, 2), names, commits, strict=True)]
    assert merge([Named(each.run.id, each) for each in parts]).run.commit == commits[1]


def test_runs_of_different_architectures_merge_too() -> None:
    parts = [_with(run(cell(architecture=name), name=name), arch=name) for name in ("gpt2", "llama")]
    assert merge([Named(each.run.id, each) for each in parts]).run.options["arch"] == "gpt2,llama"


def test_a_part_that_is_not_complete_makes_a_run_that_is_not(report: Report) -> None:
    partial = _shard(2, 2, run(cell(architecture="llama"), complete=False))
    out = report.directory / "merged.json"
    assert "not complete" in report("merge", report.record(_ONE), report.record(partial), "-o", out).out
    assert not load(out).run.complete
    assert load(out).run.finished is None


_OTHER = run(cell(architecture="llama"))


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ((_ONE,), "shards-missing"),
        ((_shard(1, 40, run(cell())),), "shards-missing"),
        ((_ONE, _shard(1, 2, _OTHER)), "shards-overlap"),
        ((_ONE, _shard(2, 2, run(cell(architecture="gpt2")))), "shards-overlap"),
        ((_ONE, _shard(2, 3, _OTHER)), "runs-differ"),
        ((_ONE, _OTHER), "runs-differ"),
        ((_ONE, _shard(2, 2, run(cell(), torch="2.12.0"))), "runs-differ"),
        ((_ONE, _with(_TWO, tier="full")), "runs-differ"),
        ((_ONE, _with(_TWO, seed=7)), "runs-differ"),
        ((_ONE, _shard(2, 2, run(cell(), commit="a" * 40))), "runs-differ"),
        ((_with(_ONE, division="by new durations"), _with(_TWO, division="by old ones")), "runs-differ"),
        ((_of_code(_ONE, suite="one", gpt2="one"), _of_code(_TWO, suite="another", llama="one")), "runs-differ"),
        ((run(cell(), name="a"), run(cell(), name="b")), "shards-overlap"),
        ((_ONE, _with(_TWO, shard="0/2")), "invalid-shard"),
        ((_ONE, _with(_TWO, shard="two")), "invalid-shard"),
    ],
)
def test_what_is_not_one_run_is_refused_in_a_sentence(
    report: Report, records: tuple[RunRecord, ...], code: str
) -> None:
    out = report.directory / "merged.json"
    report.refused(code, "merge", *map(report.record, records), "-o", out)
    assert not out.exists()


def test_a_record_is_never_overwritten_by_its_own_merger(report: Report) -> None:
    first, second = report.record(_ONE), report.record(_TWO)
    before = first.read_bytes()
    report.refused("invalid-output", "merge", first, second, "-o", first)
    assert first.read_bytes() == before


def test_an_earlier_file_is_moved_aside(report: Report) -> None:
    records, out = [report.record(_ONE), report.record(_TWO)], report.directory / "notes.json.gz"
    out.write_text("keep")
    message, _ = report("merge", *records, "-o", out).out.splitlines()
    assert load(out).run.complete
    (moved,) = report.directory.glob("notes-*.json.gz")
    assert moved.read_text() == "keep"
    assert message == f"the earlier notes.json.gz was moved to {moved}"


def test_a_record_is_not_written_under_the_name_of_a_journal(report: Report) -> None:
    out = report.directory / "run.jsonl"
    report.refused("invalid-output", "merge", report.record(_ONE), report.record(_TWO), "-o", out)
    assert not out.exists()


@settings(max_examples=40, deadline=None)
@given(runs, st.integers(1, 4), st.data())
def test_a_run_cut_into_shards_is_put_together_again(whole: RunRecord, number: int, data: st.DataObject) -> None:
    names = sorted({each.architecture for each in whole.cells})
    place = {name: data.draw(st.integers(1, number)) for name in names}
    shards = [
        _shard(index, number, run(*(each for each in whole.cells if place[each.architecture] == index)))
        for index in range(1, number + 1)
    ]
    made = {repr(merge([Named(each.run.id, each) for each in order])) for order in itertools.permutations(shards)}
    assert len(made) == 1
    merged = merge([Named(each.run.id, each) for each in shards])
    assert sorted(each.id for each in merged.cells) == sorted(each.id for each in whole.cells)
    if number > 1:
        with pytest.raises(ReportError):
            merge([Named(each.run.id, each) for each in shards[1:]])
    if whole.cells:
        cut = dataclasses.replace(whole, cells=whole.cells[:1])
        twice = [_shard(1, 2, cut), _shard(2, 2, cut)]
        with pytest.raises(ReportError):
            merge([Named(each.run.id, each) for each in twice])


def test_every_verdict_survives(report: Report) -> None:
    cells = [cell(architecture=f"a{index}", verdict=verdict) for index, verdict in enumerate(Verdict)]
    out = report.directory / "merged.json"
    parts = [report.record(_shard(index + 1, len(cells), run(each))) for index, each in enumerate(cells)]
    assert report("merge", *parts, "-o", out).code == 0
    assert [each["verdict"] for each in json.loads(out.read_text())["cells"]] == [str(each) for each in Verdict]
