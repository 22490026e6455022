"""The status page, from hand-made runs; what it looks like is read with a Markdown parser, not guessed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.core.text import one_line
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, Environment, ExpectedFailure, RunInfo, RunRecord
from conformance.runner.judge import bare_record
from report.analysis.status import status_of
from report.analysis.verdicts import GLYPHS
from report.status_page import status_page
from tests.support.markdown import shape, tokens
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_KNOWN = ExpectedFailure("the backend computes another function", "https://example.org/issues/1")
_DIFFERS = "execute:logits-differ"
_HOSTILE = (
    "a|b \\| `c` ``` d\n\n# heading\n| x | y |\n| --- | --- |\r\n<script>alert(1)</script> <!-- "
    "[e](http://evil.example) ![f](g) **h** __i__ _j_ ~~k~~ &lt; www.evil.example a@evil.example $l$ "
    "\u2028- m\u202e n\\"
)


def _cell(
    clause: str,
    verdict: Verdict = Verdict.PASS,
    stage: Stage | None = None,
    *,
    architecture: str = "llama",
    subject: str = "reference",
    backend: str = "xnnpack",
    mode: Mode = Mode.DECODE,
    signature: str | None = None,
    expected: ExpectedFailure | None = None,
    message: str | None = None,
) -> CellRecord:
    eager = backend == EAGER
    record = bare_record(
        Cell(architecture, None if eager else subject, backend, None if eager else mode, clause), verdict, message
    )
    known = _KNOWN if verdict is Verdict.EXPECTED_FAILURE else None
    return dataclasses.replace(record, stage=stage, signature=signature, expected=expected or known)


def _run(
    *cells: CellRecord, started: str = "2026-11-23T10:00:00+00:00", complete: bool = True, torch: str = "2.13.0"
) -> RunRecord:
    return RunRecord(
        schema_version=1,
        run=RunInfo(f"run-{started}", started, started if complete else None, complete, {}, None),
        environment=Environment("3.11.7", "Linux", "a processor", {"torch": torch, "transformers": "5.23.0"}),
        cells=cells,
    )


def _tables(page: str) -> list[list[list[str]]]:
    """Each table's rows, as a reader sees their text."""
    tables: list[list[list[str]]] = []
    cell = False
    for token in tokens(page):
        match token.type:
            case "table_open":
                tables.append([])
            case "tr_open":
                tables[-1].append([])
            case "th_open" | "td_open":
                cell = True
            case "inline" if cell:
                shown = [" " if child.content == "<br>" else child.content for child in token.children or []]
                tables[-1][-1].append("".join(text for text in shown if text not in {"<span>", "</span>"}))
                cell = False
    return tables


def _place(*cells: CellRecord) -> str:
    """What the grid says of the xnnpack decode column."""
    heads, row = _tables(status_page([_run(*cells)]))[-1]
    return dict(zip(heads, row, strict=True))["reference xnnpack decode"]


def test_the_grid_prints_the_one_status() -> None:
    """Which status, is tested where it is computed."""
    cells = [
        _cell("EXP-1", backend=EXPORTED),
        _cell("EXP-9", Verdict.EXPECTED_FAILURE, Stage.EXPORT, backend=EXPORTED, signature="export:a"),
        _cell("PAR-1"),
        _cell("LOW-4", Verdict.FAIL, Stage.LOWER, signature="lower:stored-twice"),
    ]
    place = _place(*cells)
    assert place == "✓ decodes correctly, not EXP-9, ✗ not LOW-4"
    assert place == str(status_of(cells))


@pytest.mark.parametrize(
    "verdict", sorted(set(Verdict) - {Verdict.PASS, Verdict.NOT_APPLICABLE, Verdict.EXPECTED_FAILURE})
)
def test_every_other_verdict_shows(verdict: Verdict) -> None:
    page = status_page([_run(_cell("PAR-1", verdict, message="why"), _cell("PAR-3"))])
    assert f"### {GLYPHS[verdict]} " in page
    assert f"1 {verdict}" in page
    assert ("**0 of 1**" in page) == (verdict is not Verdict.UNEXPECTED_PASS)


def test_how_far() -> None:
    cost = [_cell("PAR-1", architecture="a"), _cell("LOW-4", Verdict.FAIL, Stage.LOWER, architecture="a")]
    missing = [
        _cell("PAR-1", architecture="b"),
        _cell("EXP-9", Verdict.EXPECTED_FAILURE, Stage.EXPORT, architecture="b", backend=EXPORTED),
    ]
    stuck = [_cell("PAR-1", Verdict.FAIL, Stage.LOAD, architecture=name) for name in "cd"]
    nothing = [_cell("PAR-1", Verdict.NOT_APPLICABLE, architecture="e", message="it has no attention")]
    varied = [_cell("PAR-1", architecture="a+yarn"), _cell("PAR-1", Verdict.CRASH, architecture="b+yarn")]
    page = status_page([_run(*cost, *missing, *stuck, *nothing, *varied)])
    rows = {(row[1], row[2]): row[3:] for row in _tables(page)[2]}
    assert rows["xnnpack", "decode"] == [
        "2 of 5 (variations: 1 of 2)",
        "✗ 2 blocked at load, – 1 not applicable",
        "EXP-9 ≈1, LOW-4 ✗1",
    ]
    assert "- `e`: it has no attention" in page


def test_causes_are_grouped_and_what_is_unknown_comes_first() -> None:
    known = [
        _cell(clause, Verdict.EXPECTED_FAILURE, Stage.EXECUTE, architecture=name, signature=_DIFFERS)
        for name in ("gemma2", "gemma3_text")
        for clause in ("PAR-1", "PAR-3")
    ]
    message = (
        "PAR-1 failed at stage load: here\n  observed  RuntimeError: error 0x14\n  expected  stage load to succeed"
    )
    unknown = _cell("PAR-1", Verdict.FAIL, Stage.LOAD, signature="load:RuntimeError:error 0x14", message=message)
    page = status_page([_run(*known, unknown)])
    short = page[page.index("## Failures by cause") :]
    assert short.index("### ✗ RuntimeError: error 0x14\n") < short.index(
        "### ≈ the backend computes another function\n"
    )
    assert "- signature: `execute:logits-differ`\n- cells: 4 expected-failure, of `reference xnnpack decode`" in short
    assert "- architectures: `gemma2`, `gemma3_text`" in short
    assert "- reason: the backend computes another function\n- link: <https://example.org/issues/1>" in short
    assert "- example: `PAR-1 failed at stage load: here observed RuntimeError: error 0x14`" in short


def test_a_failure_beyond_its_bound_is_not_known() -> None:
    listed = _cell("PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXECUTE, signature=_DIFFERS)
    beyond = _cell("PAR-3", Verdict.FAIL, Stage.EXECUTE, signature=_DIFFERS, expected=_KNOWN)
    page = status_page([_run(listed, beyond)])
    assert "### ✗ logits differ (execute)" in page
    assert "### ≈ the backend computes another function" in page


def test_later_run_wins_whatever_the_order() -> None:
    first = _run(_cell("PAR-1", Verdict.FAIL, Stage.LOAD), _cell("PAR-3"), started="2026-11-23T10:00:00+00:00")
    second = _run(_cell("PAR-1"), _cell("PAR-1", subject="other"), started="2026-11-24T09:00:00+00:00")
    page = status_page([second, first])
    assert page == status_page([first, second])
    assert "| llama | ✓ decodes correctly | ✓ decodes correctly |" in page
    assert "| date | 2026-11-23 to 2026-11-24 |" in page
    assert page.index("## Exporter `other`") < page.index("## Exporter `reference`")
    assert "None: every clause" in page


def test_order_of_cells_does_not_matter() -> None:
    cells = [
        _cell("PAR-1", verdict, architecture=name) for name in "cab" for verdict in (Verdict.CRASH, Verdict.TIMEOUT)
    ]
    cells = [dataclasses.replace(cell, id=f"{cell.id}-{index}") for index, cell in enumerate(cells)]
    assert status_page([_run(*cells)]) == status_page([_run(*reversed(cells))])


def test_different_versions_are_refused() -> None:
    later = _run(started="2026-11-24T10:00:00+00:00", torch="2.14.0")
    with refused("runs-differ"):
        status_page([later, _run()])
    with refused("no-records"):
        status_page([])


def test_incomplete_run_is_loud() -> None:
    assert "WARNING" not in status_page([_run(_cell("PAR-1"))])
    page = status_page([_run(_cell("PAR-1", Verdict.NOT_RUN), complete=False)])
    assert "> [!WARNING]\n> **Run `run-2026-11-23T10:00:00+00:00` is not complete.** It did not finish: 1 cell" in page


def test_fixtures_alone_make_a_page() -> None:
    page = status_page([_run(_cell("SEN-1", backend=EAGER))])
    assert "shared by all exporters. 1 cell: 1 pass." in page
    assert "Every architecture" not in page


def test_architectures_that_another_oracle_judges_are_named() -> None:
    known = _cell("PAR-8", Verdict.EXPECTED_FAILURE, Stage.EAGER, architecture="bamba", backend=EAGER)
    page = status_page([_run(known, _cell("PAR-8", backend=EAGER), _cell("PAR-1"))])
    assert f"forward pass without a cache:\n\n- `bamba`: {_KNOWN.reason}\n" in page
    assert "without a cache" not in status_page([_run(_cell("PAR-8", backend=EAGER), _cell("PAR-1"))])


def test_no_text_of_a_record_becomes_markup() -> None:
    """Everything that a record can say in free text is hostile; the page keeps the shape that it has with tame text."""

    def page(text: str) -> str:
        texts: dict[str, Any] = {
            "architecture": text,
            "subject": text,
            "backend": text,
            "signature": text,
            "message": text,
        }
        why = ExpectedFailure(text, text)
        cells = [
            _cell("PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXECUTE, expected=why),
            _cell("PAR-3", Verdict.FAIL, Stage.LOAD),
            _cell("LOW-1", Verdict.NOT_APPLICABLE),
        ]
        cells = [dataclasses.replace(cell, **texts) for cell in cells]
        cells.append(dataclasses.replace(cells[0], id="replayed", clause=f"EXP-{text}", replay=text))
        cells.append(dataclasses.replace(cells[0], id="missed", clause=f"LOW-{text}", backend="b", signature=_DIFFERS))
        cells.append(dataclasses.replace(cells[0], id="differs", backend="b", signature=_DIFFERS))
        cells.append(dataclasses.replace(cells[2], id="other", architecture=f"{text} n"))
        info = dataclasses.replace(_run().run, id=text, complete=False)
        environment = Environment(text, text, text, {text: text})
        return status_page([RunRecord(schema_version=1, run=info, environment=environment, cells=tuple(cells))])

    assert shape(page(_HOSTILE)) == shape(page("tame"))
    hostile = page(_HOSTILE)
    read = one_line(_HOSTILE, 2000)
    assert [read, read] in _tables(hostile)[0]
    # This parser makes no links of bare addresses; GitHub does.
    assert "http:<span>//</span>evil.example" in hostile
    assert "www<span>.</span>evil.example a<span>@</span>evil.example <span>$</span>l" in hostile
    assert all(len(row) == len(table[0]) for table in _tables(hostile) for row in table)


def test_needs_no_torch() -> None:
    code = "import sys, report.status_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
