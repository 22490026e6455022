"""The overview: a sentence whose parts add up, a state for each variant, and links to what explains each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from conformance.core.contract import Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, ExpectedFailure, RunRecord
from report.analysis import Report, analyse
from report.overview import grid, overview, sentence
from report.views import targets
from tests.report.samples import cell, run, runs

pytestmark = pytest.mark.unit

_OLD = "2026-11-01T10:00:00+00:00"


def _wrong(name: str, verdict: Verdict = Verdict.FAIL, mode: Mode = Mode.DECODE) -> CellRecord:
    expected = ExpectedFailure("It is known.") if verdict is Verdict.EXPECTED_FAILURE else None
    signature = "execute:logits-differ"
    return cell("PAR-1", verdict, Stage.EXECUTE, architecture=name, signature=signature, expected=expected, mode=mode)


def _texts(report: Report) -> list[str]:
    return [phrase.text for phrase in sentence(report.headlines[0])]


def test_every_architecture_is_in_the_sentence_once() -> None:
    head = run(
        cell(),
        cell(architecture="gpt2"),
        _wrong("phi", Verdict.EXPECTED_FAILURE),
        _wrong("qwen3"),
        cell(architecture="bamba", verdict=Verdict.NOT_APPLICABLE),
        cell(architecture="falcon", verdict=Verdict.NOT_RUN),
    )
    assert _texts(analyse([head])) == [
        "2 of 6 architectures decode correctly",
        "1 known failure",
        "1 broken",  # there is no older run
        "1 not judged",
        "1 not applicable",
    ]


@pytest.mark.parametrize(
    ("days", "text"),
    [
        ({"phi": 2, "qwen3": 2}, "2 broken since 2026-11-02"),
        ({"phi": 2, "qwen3": 3}, "2 broken since 2026-11-02, or later"),
        ({"phi": 1, "qwen3": 3}, "2 broken"),
    ],
)
def test_broken_ones_have_a_date_if_it_is_known_of_all(days: dict[str, int], text: str) -> None:
    past = [
        run(
            *(_wrong(name) if day >= since else cell(architecture=name) for name, since in days.items()),
            name=f"run {day}",
            started=f"2026-11-0{day}T10:00:00+00:00",
        )
        for day in (1, 2, 3, 4)
    ]
    assert text in _texts(analyse(past))


@settings(max_examples=60, deadline=None)
@given(runs)
def test_the_parts_of_any_sentence_add_up(found: RunRecord) -> None:
    for headline in analyse([found]).headlines:
        assert sum(phrase.number for phrase in sentence(headline)) == headline.of


def test_problems_of_any_variant_come_first_and_lead_to_their_failure() -> None:
    late = [_wrong("mixtral", mode=Mode.DYNAMIC), cell(architecture="mixtral")]
    report = analyse([run(cell(), cell(mode=Mode.DYNAMIC), *late)])
    links = targets(report)
    first, second = overview(report, links)
    assert (first.architecture.name, second.architecture.name) == ("mixtral", "llama")
    assert [each.state.status.label for each in first.cells] == ["decodes correctly", "wrong result"]
    assert [each.target for each in first.cells] == ["", links[late[0].id]]
    (cause,) = report.causes
    assert links[late[0].id] == f"architectures/mixtral.html#{cause.anchor}"
    assert [(each.clause, each.known, each.target) for each in first.violated] == [("PAR-1", False, links[late[0].id])]
    assert second.violated == ()


def test_an_unexpected_failure_explains_a_state_before_a_known_one() -> None:
    known = cell(
        "PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXPORT, signature="export:E:a", expected=ExpectedFailure("Known.")
    )
    unexpected = cell("PAR-3", Verdict.FAIL, Stage.LOWER, signature="lower:E:b")
    report = analyse([run(known, unexpected)])
    links = targets(report)
    (row,) = overview(report, links)
    assert row.cells[0].target == links[unexpected.id]
    (stages,) = grid(report, report.variants[0], links)
    assert stages.targets == {Stage.LOWER: links[unexpected.id], Stage.EXPORT: links[known.id]}


def test_what_was_not_run_and_what_does_not_apply_lead_to_why() -> None:
    lost = cell("PAR-1", Verdict.NOT_RUN, message="it needs a package")
    without = cell("PAR-1", Verdict.NOT_APPLICABLE, architecture="bamba", message="no static cache")
    silent = cell("PAR-1", Verdict.NOT_APPLICABLE, architecture="zaya")
    report = analyse([run(lost, without, silent)])
    found = {row.architecture.name: row.cells[0].target for row in overview(report, targets(report))}
    assert found == {
        "llama": "architectures/llama.html#not-run",
        "bamba": "architectures/bamba.html#not-applicable",
        "zaya": "",
    }


def test_an_exporter_that_is_not_the_reference_is_always_named() -> None:
    alone = analyse([run(cell(subject="transformers"))])
    assert alone.short(alone.variants[0]) == "transformers · xnnpack · decode"
    assert alone.parts(alone.variants[0]) == ("xnnpack", "decode", "transformers")
    both = analyse([run(cell(), cell(subject="transformers"))])
    assert [both.parts(each)[-1] for each in both.variants] == ["reference", "transformers"]
    assert analyse([run(cell())]).parts(both.variants[0]) == ("xnnpack", "decode")


def test_the_newest_change_of_any_variant_is_dated() -> None:
    before = run(cell(), cell(mode=Mode.DYNAMIC), name="base", started=_OLD)
    report = analyse([before, run(cell(), _wrong("llama", mode=Mode.DYNAMIC))])
    (row,) = overview(report, targets(report))
    assert re.match("2026-11-23", row.since)
    (still,) = overview(analyse([before]), {})
    assert still.since == ""
