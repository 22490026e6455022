"""The site: it shows all that a record says, and nothing that a record says becomes markup or leaves its directory."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.contract import Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix.known_failures import Cause as KnownFailure
from conformance.matrix.known_failures import Undecodable
from conformance.matrix.schema import Matrix, Row, Tier
from conformance.records.run import ExpectedFailure, RunRecord
from report.analysis import analyse
from report.bundles import collect_bundles
from report.loading import when
from report.site import MANIFEST, Settings, build, write
from tests.report.samples import HOSTILE, STARTED, cell, partition, run, runs
from tests.support.matrix import small_matrix
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_MATRIX = small_matrix()
_NOW = Settings(datetime(2026, 11, 24, tzinfo=UTC))


def _site(*given_runs: RunRecord) -> dict[str, str]:
    return build(analyse(given_runs, _MATRIX), _NOW)


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


def test_one_cell_of_one_architecture_is_counted_as_one() -> None:
    assert "1 cell of 1 architecture." in _Page(_site(run(cell()))["index.html"]).text


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
        bundle=text,
        partition=partition({text: 1}, {text: 1}, delegate=text),
    )
    lost = cell(architecture=text, clause="LOW-2", verdict=Verdict.NOT_RUN, message=text)
    known = cell(
        architecture=text, verdict=Verdict.EXPECTED_FAILURE, signature=text, expected=ExpectedFailure(text, text)
    )
    found = collect_bundles(run(failing), Path())
    site = build(
        analyse([run(failing, known, name=text), run(failing, known, lost, name="second", commit=text)], _MATRIX),
        _NOW,
        found,
    )
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
    architecture, index_schema = (json.loads(site[f"schema/{kind}.schema.json"]) for kind in ("architecture", "index"))
    for document in listed:
        jsonschema.Draft202012Validator(architecture).validate(document)
    jsonschema.Draft202012Validator(index_schema).validate(index)


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


def test_problems_come_first_and_show_by_more_than_colour() -> None:
    bad = cell(architecture="zaya", verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:X:y", message="it fails")
    page = _Page(_site(run(cell(architecture="llama"), bad))["index.html"])
    assert page.text.index("zaya") < page.text.index("llama")
    assert "blocked at lower" in page.text
    assert {attributes.get("scope") for attributes in page.all("th")} == {"row", "col"}
    assert page.all("caption")


def test_what_was_only_lowered_never_looks_as_if_it_decoded() -> None:
    fixture = cell("SEN-1", subject=None, backend="eager", mode=None)
    exported = [cell(clause, backend="exported") for clause in ("EXP-1", "PAR-1")]
    cells = [fixture, *exported, cell("LOW-1"), cell("PAR-1"), cell("LOW-1", backend="vulkan")]
    site = _site(run(*cells))
    llama = json.loads(site["index.json"])["architectures"][0]
    labels = {each["backend"]: each["label"] for each in llama["variants"]}
    assert list(labels) == ["xnnpack", "vulkan", "exported"]  # what runs comes first
    assert labels["vulkan"] == "compiled only"
    assert labels["xnnpack"] == labels["exported"] == "decodes correctly"
    grid = _Page(next(text for address, text in site.items() if "vulkan" in address and address.startswith("grid/")))
    assert [each["data-states"] for each in grid.all("td") if "data-states" in each] == ["compiled only"]
    assert "◇" in grid.text
    assert "0 of 1 architectures decode correctly on vulkan decode" in grid.text
    alone = _site(run(fixture, *exported, cell("LOW-1", backend="vulkan")))
    assert json.loads(alone["badges/llama.json"])["message"] == "compiled only"
    assert "◇ compiled only" in _text(alone["architectures/llama.html"])
    assert "◇ compiled only" in _text(alone["versions.html"])
    (only,) = json.loads(_site(run(fixture, exported[0]))["index.json"])["architectures"][0]["variants"]
    assert only["label"] == "compiled only"


def test_only_what_cannot_decode_with_these_versions_is_marked() -> None:
    def page(when: str) -> str:
        fails = (Undecodable("eager:TypeError:no static cache"),)
        cause = KnownFailure(("reference",), "Its cache has no static form.", fails=fails, when={"transformers": when})
        rows = {"llama": Row(Tier.CORE, ("full_attention",), "its caches", ("no-cache",))}
        site = build(analyse([run(cell())], Matrix(rows, {"no-cache": cause})), _NOW)
        return _text(site["architectures/llama.html"])

    assert "Cannot decode with a static cache" not in page("<5")
    assert "Cannot decode with a static cache. Its cache has no static form." in page(">=5")


def test_a_variant_has_no_past_before_it_was_there() -> None:
    shared, own = cell("PAR-1", backend="exported"), cell("LOW-1", backend="vulkan")
    before = run(shared, name="base", started="2026-11-01T10:00:00+00:00")
    index = json.loads(_site(before, run(shared, own))["index.json"])
    since = {each["backend"]: each["since"] for each in index["architectures"][0]["variants"]}
    assert since == {"exported": before.run.started, "vulkan": STARTED}


def _text(page: str) -> str:
    """What a reader reads, with what stands in different elements apart."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.replace("<wbr>", ""))).split())


def test_partition_is_shown_by_operator_and_memory() -> None:
    taken, left = {"aten.linear.default": 30, "aten.mul.Tensor": 3}, {"aten.mul.Tensor": 1, "aten.where.self": 2}
    made = partition(taken, left, delegate="Xnn<b>Backend")
    message = _text(_site(run(cell("LOW-1", partition=made)))["architectures/llama.html"])
    assert "33 of 36 operators delegated (92 %), in 33 delegates of Xnn<b>Backend" in message
    assert (
        "Operator delegated not delegated aten.where.self 0 2 aten.mul.Tensor 3 1 aten.linear.default 30 0" in message
    )
    assert "program 8.8 KiB constants 4.0 KiB , instructions and delegates 4.8 KiB" in message
    assert "planned memory 3.0 KiB caches 2.0 KiB , activations 1.0 KiB" in message
    assert "lowered in 1 s emitted in 0.50 s" in message
    two = dataclasses.replace(made, delegates={"CoreML": 1, "Xnnpack": 2})
    assert "in 3 delegates: Xnnpack 2, CoreML 1" in _text(
        _site(run(cell("LOW-1", partition=two)))["architectures/llama.html"]
    )


def test_labels_of_a_plot_are_text_that_wraps() -> None:
    metrics = {"max_relative_error": 1e-7, "tolerance": 1e-5}
    subjects = ("reference", "package.module:some_exporter", "a" * 80)
    page = _site(run(*(cell(subject=subject, metrics=metrics) for subject in subjects)))["architectures/llama.html"]
    rows = re.findall(r'<tr><th scope="row"><bdi>([^<]*)</bdi></th><td class="drawn"', page)
    assert rows == [f"{subject} · xnnpack · decode" for subject in subjects]
    assert "2.0e-04" in _text(
        _site(run(cell(metrics={**metrics, "max_relative_error": 2e-4})))["architectures/llama.html"]
    )


def test_a_record_that_only_counted_shows_what_it_counted() -> None:
    metrics = {"delegates": 4.0, "delegated_operators": 30.0, "undelegated_operators": 10.0, "program_bytes": 9000.0}
    message = _text(_site(run(cell("LOW-1", metrics=metrics)))["architectures/llama.html"])
    assert "30 of 40 operators delegated (75 %), in 4 delegates" in message
    assert "program_bytes 9000" in message
    assert "planned memory" not in message


def test_a_portable_program_folds_its_operators_away() -> None:
    made = partition({}, {"aten.linear.default": 3})
    page = _site(run(cell("LOW-1", backend="portable", partition=made)))["architectures/llama.html"]
    assert "none of 3 operators delegated; all run on portable kernels" in _text(page)
    assert "1 kind of operators" in _text(page)


def test_cells_that_were_not_run_show_the_reason_where_it_is_looked_for() -> None:
    text = "needs another package: `pip install <other>`"
    lost = [cell(clause, Verdict.NOT_RUN, backend="other", message=text) for clause in ("LOW-1", "LOW-2")]
    partial = run(cell(), *lost, complete=False)
    ended = dataclasses.replace(partial, run=dataclasses.replace(partial.run, finished=STARTED))
    site = _site(ended)
    page = _text(site["architectures/llama.html"])
    assert "Not run Reason: needs another package: pip install <other> ○ not run 2 cells" in page
    assert "not run 2 cells: other decode LOW-1, LOW-2" in page
    assert lost[0].replay in page
    index = _text(site["index.html"])
    assert "2 of its 3 cells were not run" in index
    assert "2 cells: needs another package: pip install <other>" in index
    assert "It did not finish" not in index
    assert "It did not finish" in _text(_site(partial)["index.html"])


def test_commit_of_the_run_is_in_its_header() -> None:
    dirty = _text(_site(run(cell(), commit="c" * 40 + "-dirty"))["index.html"])
    assert f"Commit {'c' * 12} with uncommitted changes" in dirty
    assert "Commit" not in _text(_site(run(cell()))["index.html"])
    assert json.loads(_site(run(cell(), commit="c" * 40))["index.json"])["run"]["commit"] == "c" * 40


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
    page = _Page(build(analyse([given_run], _MATRIX), Settings(now))["index.html"])
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
    with refused("not-a-site"):
        write({"index.html": "two"}, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("names", ['["../mine.txt"]', '["/etc/passwd"]', "{", "7"])
def test_a_manifest_cannot_reach_out_of_the_site(tmp_path: Path, names: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "site" / MANIFEST).write_text(names)
    with refused("damaged-site"):
        write({"index.html": "x"}, tmp_path / "site")
    assert (tmp_path / "mine.txt").exists()


def test_the_repository_is_linked_where_it_is_known() -> None:
    def addresses(settings: Settings) -> set[str | None]:
        site = build(analyse([run(cell())], _MATRIX), settings)
        return {each.get("href") for each in _Page(site["index.html"]).all("a")}

    known = addresses(dataclasses.replace(_NOW, repository="https://example.org/suite"))
    assert "https://example.org/suite/blob/HEAD/docs/concepts/reading-a-run.md" in known
    assert not any("suite" in (each or "") for each in addresses(_NOW))


def test_a_run_that_judged_nothing_does_not_look_good() -> None:
    assert "✗ nothing was judged" in _text(_site(run(cell(verdict=Verdict.NOT_APPLICABLE)))["index.html"])
    known = cell("PAR-3", Verdict.EXPECTED_FAILURE, Stage.EXECUTE, expected=ExpectedFailure("It is known."))
    page = _text(_site(run(cell(), known))["index.html"])
    assert "✓ no unexpected results (1 known failure)" in page
    assert "accepted" not in page


def test_a_comparison_shows_the_result_of_the_gate_and_the_differences() -> None:
    base = run(cell(), name="base", started="2026-11-01T10:00:00+00:00", torch="2.12.0")
    base = dataclasses.replace(base, run=dataclasses.replace(base.run, options={"backend": "exported"}))
    failing = cell(verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:E:x")
    page = _text(_site(base, run(failing))["compare.html"])
    assert "Gate: FAIL: 1 newly failing" in page
    assert "torch 2.12.0 changed" in page
    assert "--backend : exported → none" in page
    assert "Gate: PASS: 1 cell compared, none worse" in _text(_site(base, run(cell()))["compare.html"])
    partial = _text(_site(base, run(cell(), complete=False))["compare.html"])
    assert "Gate: cannot compare the run now: the run did not finish" in partial


def test_changes_that_are_alike_share_a_row() -> None:
    names = [f"model{number}" for number in range(40)]
    base = run(*(cell(architecture=name) for name in names), name="base", started="2026-11-01T10:00:00+00:00")
    failing = [
        cell(architecture=name, verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:E:x") for name in names
    ]
    page = _Page(_site(base, run(*failing))["compare.html"])
    assert len(page.all("tr")) == 2
    assert sum((each.get("href") or "").startswith("architectures/model") for each in page.all("a")) == 40


def test_versions_are_compared_by_variant_changed_ones_first() -> None:
    old = run(cell(architecture="zaya"), cell(backend="portable"), cell(), name="a", torch="2.12.0")
    new = run(
        cell(architecture="zaya", verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:E:x"),
        cell(verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:E:x", architecture="phi"),
        cell(backend="portable"),
        cell(),
        started="2026-11-24T10:00:00+00:00",
    )
    site = _site(old, new)
    page = _Page(site["versions.html"])
    rows = [each for each in page.all("tr") if "data-differs" in each]
    heads = [each["data-value"] for each in page.all("th") if each.get("scope") == "row"]
    assert [(name, row["data-differs"]) for name, row in zip(heads, rows, strict=True)] == [
        ("phi", "yes"),
        ("zaya", "yes"),
        ("llama", ""),
    ]
    (other,) = (text for address, text in site.items() if address.startswith("versions/") and "portable" in address)
    assert "zaya" not in _text(other)


def test_chapters_in_which_all_is_well_are_folded() -> None:
    failing = cell("LOW-4", Verdict.FAIL, Stage.LOWER, signature="lower:stored-twice")
    page = _Page(_site(run(failing, cell("PAR-1"), cell("LOW-1")))["architectures/llama.html"])
    chapters = [each for each in page.all("details") if each.get("class") == "chapter"]
    assert ["open" in each for each in chapters] == [True, False]


def test_a_shared_link_has_a_preview() -> None:
    site = _site(run(cell()))
    for address, page in _pages(site).items():
        said = {each.get("property") or each.get("name"): each.get("content") for each in page.all("meta")}
        assert said["og:title"], address
        assert said["description"] == said["og:description"], address
    assert 'content="xnnpack decode: 1 of 1 architectures decode correctly"' in site["index.html"]


def test_each_exporter_has_its_sentence() -> None:
    failing = cell(verdict=Verdict.FAIL, stage=Stage.LOWER, signature="lower:E:x", subject="transformers")
    page = _text(_site(run(cell(), cell(mode=Mode.DYNAMIC), failing))["index.html"])
    assert "1 of 1 architectures decode correctly on reference · xnnpack · decode" in page
    assert "0 of 1 architectures decode correctly on transformers · xnnpack · decode · 1 broken" in page
    alone = _text(_site(run(failing))["index.html"])
    assert "decode correctly on transformers · xnnpack · decode" in alone
