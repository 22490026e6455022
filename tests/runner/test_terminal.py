"""What a run prints at its end, from hand-made verdicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import ExpectedFailure
from conformance.runner.judge import bare_record
from conformance.runner.terminal import NOTHING_JUDGED, Progress, render_summary

pytestmark = pytest.mark.unit


def test_known_failures_have_a_line_and_names_are_whole() -> None:
    names = [f"an_architecture_with_a_long_name_{number}" for number in range(3)]
    cells = [
        Cell(name, "reference", backend, Mode.DECODE, "PAR-1")
        for name in names
        for backend in ("exported", "xnnpack", "portable", "vulkan")
    ]
    records = [bare_record(cell, Verdict.PASS) for cell in cells]
    known = ExpectedFailure("The backend drops an argument. Fixed later.", "https://example.org/1")
    records[1] = dataclasses.replace(
        records[1], verdict=Verdict.EXPECTED_FAILURE, stage=Stage.EXECUTE, signature="execute:a-b", expected=known
    )
    unreported = ExpectedFailure("Weights are stored twice. Not reported upstream yet.", None)
    records[2] = dataclasses.replace(
        records[2], verdict=Verdict.EXPECTED_FAILURE, stage=Stage.LOWER, signature="lower:c", expected=unreported
    )
    records[3] = dataclasses.replace(
        records[3], verdict=Verdict.EXPECTED_FAILURE, stage=Stage.LOWER, signature="lower:d", expected=unreported
    )
    records[8:] = [bare_record(cell, Verdict.NOT_APPLICABLE, "it has no cache") for cell in cells[8:]]
    narrow, wide = (render_summary(records, Path("run.json"), width=width, color=False) for width in (80, 200))
    for summary in (narrow, wide):
        assert f"≈ The backend drops an argument: 1 cell of {names[0]}; https://example.org/1\n" in summary
        assert f"≈ Weights are stored twice: 2 cells of {names[0]}; not reported upstream\n" in summary
        assert f"– {names[2]}: it has no cache\n" in summary
        assert "1 of 3 architectures decode correctly on xnnpack decode (≈ 1 wrong result (known), – 1" in summary
        assert "…" not in summary
        assert names[0] in summary
    assert names[1] not in narrow  # it decodes
    assert wide.count("✓ decodes correctly") == 5


def test_where_nothing_needs_a_look_a_narrow_terminal_has_no_table() -> None:
    backends = ("exported", "xnnpack", "portable", "vulkan", "openvino")
    cells = [Cell("llama", "reference", backend, mode, "PAR-1") for backend in backends for mode in Mode]
    summary = render_summary([bare_record(cell, Verdict.PASS) for cell in cells], Path("r"), width=80, color=False)
    assert "1 of 1 architectures decode correctly on xnnpack decode\n" in summary
    assert "architecture  variant" not in summary


def test_a_run_without_verdicts_prints_why() -> None:
    cells = [Cell("gemma3n", "reference", "xnnpack", mode, "PAR-1") for mode in Mode]
    records = [bare_record(cell, Verdict.NOT_APPLICABLE, "gemma3n_text covers the decoder") for cell in cells]
    summary = render_summary(records, Path("run.json"), width=80, color=False)
    assert f"{NOTHING_JUDGED}\n" in summary
    assert "– gemma3n: gemma3n_text covers the decoder\n" in summary
    assert "decode correctly" not in summary


def test_the_time_left_is_estimated_from_a_tenth_on() -> None:
    cells = [Cell(f"arch{number}", "reference", "xnnpack", Mode.DECODE, "PAR-1") for number in range(20)]
    planned, lines = {cell.id: cell for cell in cells}, list[str]()
    progress = Progress(lines.append)
    for cell in cells:
        progress.add(bare_record(cell, Verdict.PASS), cell, planned)
    assert "left" not in lines[0]
    assert all("about 0:00 left" in line for line in lines[1:-1])
    assert "left" not in lines[-1]
