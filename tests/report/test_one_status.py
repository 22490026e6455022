"""The terminal, the status page, the site and its data say the same of one record."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings

from conformance.core.text import one_line
from conformance.core.verdicts import judged_nothing
from conformance.records.run import RunRecord, load_run
from conformance.runner.terminal import NOTHING_JUDGED, render_summary
from report.analysis import Report, analyse
from report.analysis.report import Headline
from report.site import Settings, build
from report.status_page import status_page
from report.summary import summary
from tests.report.sample_runs import RUNS
from tests.report.samples import runs
from tests.support.markdown import tokens
from tests.support.matrix import small_matrix

pytestmark = pytest.mark.unit

_NOW = Settings(datetime(2026, 11, 24, tzinfo=UTC))


def _numbers(found: Headline) -> tuple[str, int, int]:
    return (
        one_line(" ".join(filter(None, (found.variant.subject, found.variant.backend, found.variant.mode)))),
        (found.decoding),
        found.of,
    )


def _in_data(site: dict[str, str]) -> list[tuple[str, int, int]]:
    return [
        (
            one_line(" ".join(filter(None, (each["subject"], each["backend"], each["mode"])))),
            each["decode_correctly"],
            each["architectures"],
        )
        for each in json.loads(site["index.json"])["headlines"]
    ]


def _in_html(site: dict[str, str]) -> list[tuple[int, int]]:
    found = re.findall(r'data-decoding="(\d+)" data-of="(\d+)"', site["index.html"])
    return [(int(decoding), int(of)) for decoding, of in found]


def _in_markdown(page: str) -> list[tuple[int, int]]:
    cells = [token.content for token in tokens(page) if token.type == "inline"]
    found = [re.match(r"\*\*(\d+) of (\d+)\*\*", text) for text in cells]
    return [(int(match[1]), int(match[2])) for match in found if match]


def _in_terminal(run: RunRecord, report: Report) -> list[tuple[int, int]]:
    text = render_summary(run.cells, Path("run.json"), width=1000, color=False)
    found = re.findall(r"^(\d+) of (\d+) architectures? decode correctly.* on ", text, re.MULTILINE)
    assert all(each.status.words in text for row in report.architectures for each in row.covered if each.status.failed)
    return [(int(decoding), int(of)) for decoding, of in found]


def _all_say_the_same(run: RunRecord) -> None:
    report = analyse([run], small_matrix())
    site = build(report, _NOW)
    expected = [_numbers(each) for each in report.headlines]
    assert _in_data(site) == expected
    numbers = [each[1:] for each in expected]
    assert _in_html(site) == numbers
    with_subject = [_numbers(each)[1:] for each in report.headlines if each.variant.subject]
    nothing = judged_nothing(cell.verdict for cell in run.cells)
    assert _in_terminal(run, report) == ([] if nothing else with_subject)
    assert (NOTHING_JUDGED in render_summary(run.cells, Path("run.json"), width=1000, color=False)) == nothing
    assert sorted(_in_markdown(status_page([run]))) == sorted(with_subject)
    assert _in_markdown(summary(run)) == numbers
    for row, each in zip(json.loads(site["index.json"])["architectures"], report.architectures, strict=True):
        assert [variant["label"] for variant in row["variants"]] == [state.status.label for state in each.covered]


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.json")), ids=lambda path: path.stem)
def test_the_same_numbers_everywhere(path: Path) -> None:
    _all_say_the_same(load_run(path))


@settings(max_examples=8, deadline=None)
@given(runs)
def test_the_same_numbers_everywhere_of_any_run(found: RunRecord) -> None:
    _all_say_the_same(found)


def test_each_architecture_has_the_same_status_everywhere() -> None:
    run = load_run(RUNS / "2026-11.json")
    report = analyse([run])
    terminal = render_summary(run.cells, Path("run.json"), width=1000, color=False)
    page = status_page([run])
    site = build(report, _NOW)
    for row in report.architectures:
        for state in row.covered:
            status = state.status
            assert str(status).replace("_", "\\_") in page
            assert f"{status.glyph} {status.words}" in terminal
            assert status.label in site[f"architectures/{row.name}.html"]


def test_variations_are_counted_apart() -> None:
    run = load_run(RUNS / "2026-11.json")
    other = [each for each in run.cells if each.architecture == "llama"]
    varied = [
        replace(each, architecture="llama+rope-yarn", id=each.id.replace("llama", "llama+rope-yarn", 1))
        for each in other
    ]
    before, after = analyse([run]), analyse([replace(run, cells=(*run.cells, *varied))])
    assert [(each.decoding, each.of) for each in before.headlines] == [
        (each.decoding, each.of) for each in after.headlines
    ]
    assert (after.headlines[0].varied_decoding, after.headlines[0].varied) == (1, 1)
    assert after.headlines[0].text == "5 of 8 architectures decode correctly, 1 of 1 variations"
