"""The site: it shows all that a record says, and nothing that a record says becomes markup or leaves its directory."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.matrix import load_matrix
from conformance.records import ExpectedFailure, RunRecord
from conformance.verdicts import Stage, Verdict
from report.errors import ReportError
from report.loading import when
from report.model import stage_places, variant_of
from report.site import MANIFEST, Settings, build, write
from report.timeline import history
from tests.report.samples import HOSTILE, STARTED, cell, run, runs

_MATRIX = load_matrix()
_NOW = Settings(datetime(2026, 11, 24, tzinfo=UTC))


def _site(*given_runs: RunRecord) -> dict[str, str]:
    return build(history(given_runs), _MATRIX, _NOW)


class _Page(HTMLParser):
    """What a browser makes of a page: its elements and attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def _pages(site: dict[str, str]) -> dict[str, _Page]:
    return {address: _Page(text) for address, text in site.items() if address.endswith(".html")}


def _is_safe(address: str, page: _Page) -> None:
    assert len(page.all("script")) == 1
    for tag, attributes in page.elements:
        assert tag not in {"img", "iframe", "object", "embed", "base"}, address
        for name, value in attributes.items():
            assert not name.startswith("on"), (address, tag, name)
            if name in {"src", "href"} and value:
                outside = value.startswith(("https://", "http://"))
                assert outside or ":" not in value.partition("#")[0], (address, value)
                assert not outside or tag == "a", (address, value)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_record_becomes_markup_or_a_path(text: str) -> None:
    failing = cell(
        architecture=text,
        subject=text,
        backend=text,
        clause=text,
        verdict=Verdict.FAIL,
        stage=Stage.EXECUTE,
        signature=text,
        message=text,
    )
    known = cell(
        architecture=text, verdict=Verdict.EXPECTED_FAILURE, signature=text, expected=ExpectedFailure(text, text)
    )
    site = _site(run(failing, known, name=text), run(failing, known, name="second"))
    for address, page in _pages(site).items():
        _is_safe(address, page)
    for address in site:
        path = PurePosixPath(address)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert len(path.parts) <= 2
        assert address.isprintable()
        assert len(path.name) < 100
    template_evaluated = "49"
    if text == "{{ 7 * 7 }}":
        assert not any(template_evaluated in page.text for page in _pages(site).values())


@settings(max_examples=30, deadline=None)
@given(st.lists(runs, min_size=1, max_size=3))
def test_every_cell_of_any_run_is_on_the_site(generated: list[RunRecord]) -> None:
    named = [
        run(*each.cells, name=f"run {number}", started=f"2026-11-2{number}T10:00:00+00:00")
        for number, each in enumerate(generated)
    ]
    site = _site(*named)
    head = named[-1]
    index = json.loads(site["index.json"])
    assert Counter(index["counts"]) == Counter(cell.verdict.value for cell in head.cells)
    listed = [json.loads(site[each["data"]]) for each in index["architectures"]]
    assert sorted(cell["id"] for document in listed for cell in document["cells"]) == sorted(
        cell.id for cell in head.cells
    )
    for address, page in _pages(site).items():
        _is_safe(address, page)
    for document in listed:
        jsonschema.validate(document, json.loads(site["schema/architecture.schema.json"]))
    jsonschema.validate(index, json.loads(site["schema/index.schema.json"]))


def test_every_link_within_the_site_leads_somewhere() -> None:
    bad = cell("PAR-2", Verdict.FAIL, Stage.EXECUTE, signature="execute:logits-differ", message="it differs")
    site = _site(run(cell(), name="base", started="2026-11-01T10:00:00+00:00"), run(cell(), bad))
    for address, page in _pages(site).items():
        for tag in ("a", "link", "script"):
            for attributes in page.all(tag):
                target = (attributes.get("href") or attributes.get("src") or "").partition("#")[0]
                if target and not target.startswith("http"):
                    parts: list[str] = list(PurePosixPath(address).parent.parts)
                    for part in PurePosixPath(target).parts:
                        parts = parts[:-1] if part == ".." else [*parts, part]
                    assert "/".join(parts) in site, (address, target)


def test_problems_come_first_and_are_told_by_more_than_colour() -> None:
    bad = cell(architecture="zaya", verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:X", message="it fails")
    page = _Page(_site(run(cell(architecture="llama"), bad))["index.html"])
    assert page.text.index("zaya") < page.text.index("llama")
    assert "fails at lower" in page.text
    assert {attributes.get("scope") for attributes in page.all("th")} == {"row", "col"}
    assert page.all("caption")


@pytest.mark.parametrize(
    ("verdict", "gone_through"),
    [(Verdict.FAIL, True), (Verdict.EXPECTED_FAILURE, True), (Verdict.PASS, True), (Verdict.CRASH, False)],
)
def test_what_comes_before_the_stage_of_a_failure_was_gone_through(verdict: Verdict, gone_through: bool) -> None:
    found = cell("PAR-1", verdict, None if verdict is Verdict.PASS else Stage.EXECUTE)
    variant = variant_of(found)
    places = {place.stage: place for place in stage_places({variant: (found,)}, variant)}
    assert (places[Stage.LOAD].passed, places[Stage.BUILD].passed) == (gone_through, gone_through)
    assert not places[Stage.EXECUTE].passed


@pytest.mark.parametrize(
    ("given_run", "now", "warned"),
    [
        (run(cell()), when(STARTED), False),
        (run(cell(), complete=False), when(STARTED), True),
        (run(cell()), when(STARTED) + timedelta(days=30), True),
    ],
    ids=["whole", "partial", "stale"],
)
def test_a_partial_or_an_old_run_is_warned_of(given_run: RunRecord, now: datetime, warned: bool) -> None:
    page = _Page(build(history([given_run]), _MATRIX, Settings(now))["index.html"])
    warnings = [
        each for _, each in page.elements if each.get("role") == "alert" or "warning" in (each.get("class") or "")
    ]
    assert any("hidden" not in each for each in warnings) == warned


def test_badges_follow_the_endpoint_format() -> None:
    bad = cell("PAR-2", Verdict.FAIL, Stage.EXECUTE)
    good, failing, partial = (
        json.loads(_site(each)["badge.json"]) for each in (run(cell()), run(cell(), bad), run(cell(), complete=False))
    )
    for each in (good, failing, partial):
        assert set(each) == {"schemaVersion", "label", "message", "color"}
    assert (good["color"], failing["color"], partial["message"]) == ("brightgreen", "red", "incomplete run")


def test_a_site_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "site"
    write({"index.html": "one", "old/page.html": "x"}, place)
    write({"index.html": "two"}, place)
    assert (place / "index.html").read_text() == "two"
    assert not (place / "old/page.html").exists()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ReportError, match="is not empty and holds no report"):
        write({"index.html": "two"}, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("names", ['["../mine.txt"]', '["/etc/passwd"]', "{", "7"])
def test_a_manifest_cannot_reach_out_of_the_site(tmp_path: Path, names: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "site" / MANIFEST).write_text(names)
    with pytest.raises(ReportError, match="is damaged"):
        write({"index.html": "x"}, tmp_path / "site")
    assert (tmp_path / "mine.txt").exists()
