"""The compatibility page, from hand-made runs with different versions."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, Environment, ExpectedFailure, RunInfo, RunRecord
from conformance.runner.judge import bare_record
from report.versions_page import compatibility_page
from tests.support.markdown import shape
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_OLD = {"transformers": "4.57.6", "executorch": "1.4.1", "torch": "2.13.0"}
_NEW = {"transformers": "5.23.0", "executorch": "1.5.1", "torch": "2.13.0"}
_MIXED = {**_NEW, "executorch": "1.4.1"}
_KNOWN = ExpectedFailure("experts loop over what the data says", "https://example.org/pull/1")
_LOOP = "export:GuardOnDataDependentSymNode:Could not guard"


def _cell(
    clause: str = "PAR-1",
    verdict: Verdict = Verdict.PASS,
    stage: Stage | None = None,
    signature: str | None = None,
    *,
    architecture: str = "llama",
    subject: str = "reference",
    backend: str = EXPORTED,
    mode: Mode = Mode.DECODE,
    message: str | None = None,
) -> CellRecord:
    eager = backend == EAGER
    record = bare_record(
        Cell(architecture, None if eager else subject, backend, None if eager else mode, clause), verdict, message
    )
    known = _KNOWN if verdict is Verdict.EXPECTED_FAILURE else None
    return dataclasses.replace(record, stage=stage, signature=signature, expected=known)


def _run(
    versions: dict[str, str],
    *cells: CellRecord,
    started: str = "2026-11-28T01:00:00+00:00",
    complete: bool = True,
    options: dict[str, str | int | None] | None = None,
) -> RunRecord:
    return RunRecord(
        schema_version=1,
        run=RunInfo(
            f"run-{started}", started, started if complete else None, complete, options or {}, None, "c0ffee" * 7
        ),
        environment=Environment("3.11.7", "Linux", "a processor", {**versions, "pytest": "9.2.0"}),
        cells=cells,
    )


def _loop(architecture: str = "mixtral", verdict: Verdict = Verdict.EXPECTED_FAILURE) -> CellRecord:
    return _cell(
        "PAR-1", verdict, Stage.EXPORT, _LOOP, architecture=architecture, message="PAR-1 failed\n  observed  a guard"
    )


def _rows(page: str) -> list[list[str]]:
    """The rows of all tables, as they are written."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:1] == "|"]


def _differs(page: str) -> str:
    return page[page.index("## What differs") :]


def test_a_place_for_each_set_of_versions() -> None:
    page = compatibility_page(
        [
            _run(_NEW, _cell(), _cell(mode=Mode.DYNAMIC), _cell(architecture="mixtral")),
            _run(_OLD, _cell(), _cell(mode=Mode.DYNAMIC), _loop()),
        ]
    )
    old, new = (f"Transformers {each['transformers']}<br>ExecuTorch {each['executorch']}" for each in (_OLD, _NEW))
    assert ["architecture", "mode", old, new] in _rows(page)
    assert ["llama", "decode", "✓ decodes correctly", "✓ decodes correctly"] in _rows(page)
    assert ["llama", "dynamic", "✓ decodes correctly", "✓ decodes correctly"] in _rows(page)
    assert ["mixtral", "decode", "≈ blocked at export", "✓ decodes correctly"] in _rows(page)


def test_versions_stand_in_the_order_of_their_numbers() -> None:
    names = ("5.9.0", "5.10.4", "main")
    page = compatibility_page([_run({**_NEW, "transformers": name}, _cell()) for name in names[::-1]])
    heads = next(row for row in _rows(page) if row[0] == "architecture")
    assert [head.partition("<")[0] for head in heads[2:]] == [f"Transformers {name}" for name in names]


def test_torch_is_named_where_it_is_not_the_same_everywhere() -> None:
    runs = [_run({**_NEW, "torch": torch}, _cell()) for torch in ("2.14.0", "2.13.0")]
    heads = next(row for row in _rows(compatibility_page(runs)) if row[0] == "architecture")
    assert heads[2:] == [f"Transformers 5.23.0<br>ExecuTorch 1.5.1<br>torch {torch}" for torch in ("2.13.0", "2.14.0")]


def test_subjects_and_backends_have_tables_of_their_own() -> None:
    cells = [
        _cell(subject=subject, backend=backend)
        for subject in ("transformers", "reference")
        for backend in ("xnnpack", EXPORTED)
    ]
    page = compatibility_page([_run(_NEW, *cells)])
    heads = [line for line in page.splitlines() if line.startswith(("## Exporter", "### On"))]
    own = ["### On `exported`", "### On `xnnpack`"]
    assert heads == ["## Exporter `reference`", *own, "## Exporter `transformers`", *own]
    assert "all runs have the same versions" in page


def test_what_no_run_covers_is_empty() -> None:
    page = compatibility_page([_run(_NEW, _cell(), _cell(architecture="afmoe")), _run(_OLD, _cell())])
    assert ["afmoe", "decode", "", "✓ decodes correctly"] in _rows(page)
    assert "every cell has the same outcome" in _differs(page)


def test_a_known_difference_comes_with_its_reason_and_link() -> None:
    runs = [_run(_OLD, _loop("mixtral"), _loop("deepseek_v3"), _cell())]
    runs += [
        _run(each, *(_cell(architecture=name) for name in ("mixtral", "deepseek_v3", "llama")))
        for each in (_MIXED, _NEW)
    ]
    message = _differs(compatibility_page(runs))
    assert f"### ≈ {_KNOWN.reason}\n\n- signature: `{_LOOP}`\n" in message
    assert "- expected-failure with Transformers 4.57.6 (ExecuTorch 1.4.1)\n- other versions: 4 pass" in message
    assert "- 2 cells of `reference exported decode`\n- architectures: `deepseek_v3`, `mixtral`" in message
    assert f"- reason: {_KNOWN.reason}\n- link: <{_KNOWN.link}>" in message
    assert "unexplained" not in message
    assert "`llama`" not in message


def test_a_difference_without_a_reason_is_unexplained_and_comes_first() -> None:
    listed_otherwise = dataclasses.replace(_loop("gemma2", Verdict.FAIL), expected=_KNOWN, signature="export:E:other")
    runs = [
        _run(_OLD, _loop("mixtral"), _loop("phi3"), listed_otherwise),
        _run(_NEW, *(_cell(architecture=name) for name in ("mixtral", "phi3", "gemma2"))),
    ]
    message = _differs(compatibility_page(runs))
    assert message.index("### ✗ a guard") < message.index("- signature: `export:E:other`") < message.index("### ≈")
    first = message[message.index("### ✗") : message.index("### ≈")]
    assert "- reason: **unexplained**\n- example: `PAR-1 failed observed a guard`\n- replay: `conformance run" in first
    assert _KNOWN.reason not in first


def test_the_same_failure_is_a_difference_where_only_some_versions_list_it() -> None:
    message = _differs(compatibility_page([_run(_OLD, _loop()), _run(_NEW, _loop(verdict=Verdict.FAIL))]))
    assert "### ✗ a guard" in message
    assert f"### ≈ {_KNOWN.reason}" in message


def test_what_does_not_apply_comes_with_the_fact_and_last() -> None:
    fact = "Transformers 4.57 knows no static cache with state"
    runs = [
        _run(_OLD, _cell("PAR-1", Verdict.NOT_APPLICABLE, message=fact), _cell("PAR-3")),
        _run(_NEW, _cell("PAR-1"), _cell("PAR-3", Verdict.CRASH)),
    ]
    text = _differs(compatibility_page(runs))
    assert text.index("### ✱ crash") < text.index(f"### – {fact}")
    assert f"- reason: {fact}" in text


def test_what_fails_alike_everywhere_is_not_a_difference() -> None:
    message = _differs(compatibility_page([_run(_OLD, _loop()), _run(_NEW, _loop())]))
    assert _LOOP not in message
    assert "every cell has the same outcome" in message


def test_a_cell_without_a_verdict_is_not_a_difference() -> None:
    runs = [_run(_OLD, _cell(verdict=Verdict.NOT_RUN), complete=False), _run(_NEW, _cell())]
    page = compatibility_page(runs)
    assert "every cell has the same outcome" in _differs(page)
    assert "is not complete" in page


def test_steps_go_from_each_to_the_next_older_and_count_cells() -> None:
    other = {**_OLD, "executorch": "1.5.1"}
    runs = [
        _run(_OLD, _cell("PAR-1"), _cell("PAR-3"), _loop()),
        _run(other, _cell("PAR-1"), _cell("PAR-3", Verdict.CRASH), _loop()),
        _run(_MIXED, _cell("PAR-1"), _cell("PAR-3"), _cell(architecture="mixtral")),
        _run(_NEW, _cell("PAR-1"), _cell("PAR-3", Verdict.FAIL, Stage.LOAD, "load:no"), _cell(architecture="mixtral")),
    ]

    def name(versions: dict[str, str]) -> str:
        return f"Transformers {versions['transformers']}, ExecuTorch {versions['executorch']}"

    rows = {(row[0], row[1]): row[2:] for row in _rows(_differs(compatibility_page(runs)))[2:]}
    assert rows == {
        (name(_OLD), name(other)): ["3", "1", "0", "0"],
        (name(_OLD), name(_MIXED)): ["3", "0", "1", "0"],
        (name(_MIXED), name(_NEW)): ["3", "1", "0", "0"],
        (name(other), name(_NEW)): ["3", "0", "1", "1"],
    }


def test_what_was_run_is_printed_as_it_would_be_typed() -> None:
    options: dict[str, str | int | None] = {
        "backend": "exported,xnnpack",
        "clause": "PAR",
        "examples": 3,
        "arch": None,
        "matrix": "0123456789ab",
    }
    page = compatibility_page([_run(_NEW, _cell(), options=options)])
    command = "`conformance run --backend exported,xnnpack --clause PAR --max-examples 3`"
    message = f"transformers 5.23.0, executorch 1.5.1, torch 2.13.0: {command}, 2026-11-28, commit `c0ffeec0ffee`"
    assert f"- {message}. 1 cell: 1 pass." in page


def test_a_later_run_with_the_same_versions_wins_whatever_the_order() -> None:
    first = _run(_NEW, _cell(verdict=Verdict.CRASH), _cell("PAR-3"))
    second = _run(_NEW, _cell(), started="2026-11-28T02:00:00+00:00")
    page = compatibility_page([second, first])
    assert page == compatibility_page([first, second])
    assert ["llama", "decode", "✓ decodes correctly"] in _rows(page)


def test_order_of_cells_does_not_matter() -> None:
    cells = [_cell(verdict=verdict, architecture=f"a{verdict}") for verdict in Verdict]
    others = [_cell(architecture=cell.architecture) for cell in cells]
    page = compatibility_page([_run(_OLD, *cells), _run(_NEW, *others)])
    assert page == compatibility_page([_run(_NEW, *others[::-1]), _run(_OLD, *cells[::-1])])


def test_a_run_without_a_version_is_refused() -> None:
    run = _run({"transformers": "5.23.0", "torch": "2.13.0"}, _cell())
    with refused("version-not-recorded"):
        compatibility_page([run])
    with refused("no-records"):
        compatibility_page([])


def test_no_text_of_a_record_becomes_markup() -> None:
    hostile = (
        "a|b \\| `c` ``` d\n\n# heading\n| x | y |\n<script>alert(1)</script> [e](http://evil.example) **h** __i__ "
        "\u202e n\\"
    )

    def page(text: str) -> str:
        names = ("architecture", "subject", "backend", "signature", "message", "replay", "clause")
        free: dict[str, Any] = dict.fromkeys(names, text)
        ends = (
            _cell("PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXECUTE),
            _cell("PAR-1", Verdict.FAIL, Stage.LOAD),
            _cell("PAR-1", Verdict.NOT_APPLICABLE),
        )
        cells = [dataclasses.replace(cell, **free, id=f"{text}{cell.verdict}") for cell in ends]
        cells[0] = dataclasses.replace(cells[0], expected=ExpectedFailure(text, text))
        passed = [dataclasses.replace(cell, verdict=Verdict.PASS) for cell in cells]
        run = _run(dict.fromkeys(_NEW, text), *cells, complete=False, options={"arch": text})
        run = dataclasses.replace(run, run=dataclasses.replace(run.run, id=text, commit=text))
        return compatibility_page([run, _run(_NEW, *passed)])

    assert shape(page(hostile)) == shape(page("tame"))


def test_the_committed_page_says_what_made_it() -> None:
    page = (ROOT / "docs" / "reference" / "compatibility.md").read_text(encoding="utf-8")
    assert "do not edit it" in page
    assert "## What was run" in page
    assert "**unexplained**" not in page


def test_needs_no_torch() -> None:
    code = "import sys, report.versions_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
