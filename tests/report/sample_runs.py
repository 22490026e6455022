"""The runs in `fixtures/runs`, for trying the report: `python -m tests.report.sample_runs` writes them anew.

They are made up, of the kinds of cells, metrics and failures that real runs have, and the same at each call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from conformance.cells import Cell
from conformance.contract import BOTH_MODES, CHECKED, Level, Mode
from conformance.judging import bare_record
from conformance.matrix import ROOT
from conformance.records import CellRecord, Environment, ExpectedFailure, RunInfo, RunRecord, RunWriter
from conformance.verdicts import Stage, Verdict

RUNS = ROOT / "fixtures" / "runs"
_ARCHITECTURES = ("bamba", "gemma2", "gpt2", "llama", "mamba", "mixtral", "phi", "qwen3")
_VERSIONS = {
    "2026-09": {"torch": "2.12.0", "transformers": "5.21.0", "executorch": "1.4.1"},
    "2026-10": {"torch": "2.13.0", "transformers": "5.22.2", "executorch": "1.5.1"},
    "2026-11": {"torch": "2.13.0", "transformers": "5.23.0", "executorch": "1.5.1"},
}
_GELU = ExpectedFailure(
    "XNNPACK in ExecuTorch 1.5.1 computes the exact GELU where a model asks for the tanh one.",
    "https://github.com/pytorch/executorch/pull/22851",
)


def sample_runs() -> dict[str, RunRecord]:
    """Each run by its file's name, oldest first."""
    return {f"{month}.json": _run(month) for month in _VERSIONS}


def write(directory: Path) -> None:
    """Write them all into `directory`."""
    for name, run in sample_runs().items():
        RunWriter(directory / name, run.run, run.environment, run.cells)


def _run(month: str) -> RunRecord:
    started, finished = (f"{month}-15T0{hour}:00:00+00:00" for hour in (4, 5))
    options: dict[str, str | int | None] = {"tier": "core", "subject": "reference", "arch": None, "examples": 5}
    info = RunInfo(f"sample-{month}", started, finished, True, options, None)
    environment = Environment("3.11.7", "Linux-6.18-x86_64", "a made-up processor, 2 cores", _VERSIONS[month])
    return RunRecord(1, info, environment, tuple(_cells(month)))


def _cells(month: str) -> Iterator[CellRecord]:
    for architecture in _ARCHITECTURES:
        if architecture == "qwen3" and month == "2026-09":
            continue  # appears later
        for clause in CHECKED:
            if Level.EAGER in clause.levels:
                yield _judged(Cell(architecture, None, "eager", None, clause.id), month)
            for backend in ("exported", "portable", "xnnpack"):
                lowered = {Level.LOWERED, Level.RUNTIME} if backend != "exported" else {Level.EXPORTED}
                if lowered & set(clause.levels) and not (clause.delegating and backend == "portable"):
                    for mode in BOTH_MODES:
                        if mode in clause.modes:
                            yield _judged(Cell(architecture, "reference", backend, mode, clause.id), month)


def _judged(cell: Cell, month: str) -> CellRecord:
    """How a cell ended: well, but for a few stories that the report has to tell."""
    passed = dataclasses.replace(
        bare_record(cell, Verdict.PASS), metrics=_metrics(cell, month) or None, duration_s=round(_noise(cell) * 4, 3)
    )
    parity = cell.clause.startswith("PAR") and cell.backend == "xnnpack"
    late = {"2026-09": False, "2026-10": True, "2026-11": True}[month]
    match cell.architecture:
        case "bamba":
            told = (
                "cannot decode with a static cache: without `position_ids`, it counts positions from 0 in every call."
            )
            return dataclasses.replace(bare_record(cell, Verdict.NOT_APPLICABLE, told))
        case "gemma2" if parity and late:
            observed = "logits that differ by 4.1e-04 of their scale, first at call 2, position 3, token 17"
            return _failed(passed, Stage.EXECUTE, "logits-differ", observed, "at most 1.0e-05", _GELU)
        case "mamba" if month == "2026-09" and cell.subject and cell.mode is Mode.DYNAMIC:
            observed = "UserError: Constraints violated (seq)! For more information, run with TORCH_LOGS='+dynamic'"
            return _failed(
                passed, Stage.EXPORT, "UserError:Constraints violated (seq)!", observed, "stage export to succeed"
            )
        case "mixtral" if month == "2026-11" and cell.backend == "xnnpack" and cell.mode is Mode.DYNAMIC:
            observed = "RuntimeError: Missing out variants: {'aten::_grouped_mm'}"
            signature = "RuntimeError:Missing out variants: {'aten::_grouped_mm'}"
            return _failed(passed, Stage.EMIT, signature, observed, "stage emit to succeed")
        case "phi" if month == "2026-11" and cell.clause == "PAR-6" and cell.mode is Mode.DECODE and parity:
            told = "the process that judged the cell ended with signal 11 (SIGSEGV)"
            return dataclasses.replace(bare_record(cell, Verdict.CRASH, told), duration_s=1.5)
    return passed


def _failed(
    cell: CellRecord, stage: Stage, code: str, observed: str, expected: str, known: ExpectedFailure | None = None
) -> CellRecord:
    where = f"{cell.architecture} · {cell.subject} · {cell.backend} {cell.mode}"
    script = "prefill 0..3 · step 4 · rewind 2 · step 2" if stage is Stage.EXECUTE else None
    lines = [f"{cell.clause} failed at stage {stage}: {where}", f"  observed  {observed}", f"  expected  {expected}"]
    lines += [f"  script    {script}"] if script else []
    lines += [f"  replay    {cell.replay}"]
    off = {**(cell.metrics or {}), "max_relative_error": 4.1e-4, "tolerance": 1e-5}
    return dataclasses.replace(
        cell,
        verdict=Verdict.EXPECTED_FAILURE if known else Verdict.FAIL,
        stage=stage,
        signature=f"{stage}:{code}",
        message="\n".join(lines),
        expected=known,
        metrics=off if stage is Stage.EXECUTE else None,
    )


def _metrics(cell: Cell, month: str) -> dict[str, float]:
    noise = _noise(cell)
    if cell.clause == "LOW-1":
        taken = 0 if cell.backend == "portable" else 96 + int(80 * noise)
        left = 180 - taken
        slow = 2.4 if month == "2026-11" and cell.architecture == "llama" else 1.0
        sizes = {"program_bytes": float(90_000 + int(60_000 * noise)), "delegates": float(taken // 9)}
        shares = {"delegated_operators": float(taken), "undelegated_operators": float(left)}
        return {**sizes, **shares, "lower_s": round((3 + 4 * noise) * slow, 3), "emit_s": round(0.3 + noise / 2, 3)}
    if cell.clause.startswith("PAR"):
        return {"max_relative_error": float(f"{(0.2 + noise) * 1e-6:.3g}"), "tolerance": 1e-5}
    if cell.clause == "SEN-1":
        return {
            "effect_zeroed_cache": round(20_000 + 60_000 * noise, 1),
            "effect_swapped_layers": round(9e4 * noise + 900, 1),
        }
    return {}


def _noise(cell: Cell) -> float:
    """From 0 to 1, and always the same for a cell."""
    return sum(cell.id.encode()) % 997 / 997


if __name__ == "__main__":
    write(RUNS)
