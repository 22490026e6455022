"""The runs in `fixtures/runs`, for trying the report: `python -m tests.report.sample_runs` writes them anew.

They are made up, of the kinds of cells, metrics and failures that real runs have, and the same at each call.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from conformance.core.cells import Cell
from conformance.core.contract import BOTH_MODES, CHECKED, Mode, Scope
from conformance.core.paths import ROOT
from conformance.core.verdicts import STAGES, Stage, Verdict
from conformance.records.bundle import Bundle, write_bundle
from conformance.records.run import (
    DIRTY,
    CellRecord,
    Environment,
    ExpectedFailure,
    PartitionRecord,
    RunInfo,
    RunRecord,
    write_run,
)
from conformance.runner.judge import bare_record
from conformance.runner.options import ONLY_OF_CHECKPOINTS

RUNS = ROOT / "fixtures" / "runs"
_ARCHITECTURES = ("bamba", "gemma2", "gpt2", "llama", "mamba", "mixtral", "phi", "qwen3")
_VERSIONS = {
    "2026-09": {"torch": "2.12.0", "transformers": "5.21.0", "executorch": "1.4.1"},
    "2026-10": {"torch": "2.13.0", "transformers": "5.22.2", "executorch": "1.5.1"},
    "2026-11": {"torch": "2.13.0", "transformers": "5.23.0", "executorch": "1.5.1"},
}
_BACKENDS = {
    "exported": {Scope.EXPORTED},
    "portable": {Scope.LOWERED, Scope.RUNTIME},
    "xnnpack": {Scope.LOWERED, Scope.RUNTIME},
    "vulkan": {Scope.LOWERED},  # it lowers ahead of time, and nothing here can run it
}
#: How often each operator is in a small program, and the backends that take it.
_OPERATORS = {
    "aten.linear.default": (43, "xnnpack vulkan"),
    "aten.bmm.default": (12, "xnnpack vulkan"),
    "aten.mul.Tensor": (31, "xnnpack vulkan"),
    "aten.add.Tensor": (24, "xnnpack vulkan"),
    "aten.sigmoid.default": (6, "xnnpack vulkan"),
    "aten._softmax.default": (6, "xnnpack vulkan"),
    "aten.rsqrt.default": (13, "xnnpack"),
    "aten.mean.dim": (13, "xnnpack"),
    "aten.permute_copy.default": (18, "xnnpack vulkan"),
    "aten.view_copy.default": (36, ""),
    "aten.index_put_.default": (12, ""),
    "aten.embedding.default": (1, ""),
    "aten.where.self": (6, ""),
    "aten.cos.default": (1, ""),
    "aten.sin.default": (1, ""),
}
_DELEGATES = {"xnnpack": "XnnpackBackend", "vulkan": "VulkanBackend"}
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
        write_run(directory / name, run)


def write_bundles(directory: Path) -> None:
    """Leave the bundles of the newest run's failures below `directory`, as if it had been started there."""
    for cell in sample_runs()["2026-11.json"].cells:
        if not cell.bundle:
            continue
        bundle = Bundle(
            schema_version=1,
            architecture=cell.architecture,
            subject=cell.subject,
            backend=cell.backend,
            mode=Mode(cell.mode) if cell.mode else None,
            clause=cell.clause,
            stage=cell.stage,
            signature=cell.signature,
            message=cell.message or "",
            versions=_VERSIONS["2026-11"],
            config={"model_type": cell.architecture},
            max_cache_len=32,
            calls=None,
            examples=5,
            tolerance=1e-5,
            logits_scale=None,
        )
        write_bundle((directory / cell.bundle).parent, bundle, {"weights.pt": bytes(40_000)})


def _run(month: str) -> RunRecord:
    started, finished = (f"{month}-15T0{hour}:00:00+00:00" for hour in (4, 5))
    options: dict[str, str | int | None] = {"tier": "core", "subject": "reference", "arch": None, "examples": 5}
    commit = hashlib.sha1(month.encode(), usedforsecurity=False).hexdigest() + (DIRTY if month == "2026-10" else "")
    info = RunInfo(f"sample-{month}", started, finished, True, options, None, commit)
    environment = Environment("3.11.7", "Linux-6.18-x86_64", "a made-up processor, 2 cores", _VERSIONS[month])
    return RunRecord(1, info, environment, tuple(_cells(month)))


def _cells(month: str) -> Iterator[CellRecord]:
    for architecture in _ARCHITECTURES:
        if architecture == "qwen3" and month == "2026-09":
            continue  # appears later
        for clause in CHECKED:
            if clause.id in ONLY_OF_CHECKPOINTS:
                continue
            if Scope.EAGER in clause.scopes:
                yield _judged(Cell(architecture, None, "eager", None, clause.id), month)
            for backend, scopes in _BACKENDS.items():
                if backend == "vulkan" and month == "2026-09":
                    continue  # so does this
                if (
                    scopes & set(clause.scopes)
                    and not clause.quantising
                    and not (clause.delegating and backend == "portable")
                ):
                    for mode in BOTH_MODES:
                        if mode in clause.modes:
                            yield _judged(Cell(architecture, "reference", backend, mode, clause.id), month)


def _judged(cell: Cell, month: str) -> CellRecord:
    """How a cell ended: well, but for a few stories that the report has to tell."""
    passed = dataclasses.replace(
        bare_record(cell, Verdict.PASS),
        metrics=_metrics(cell, month) or None,
        duration_s=round(_noise(cell) * 4, 3),
        partition=_partition(cell, month) if cell.clause == "LOW-1" else None,
    )
    parity = cell.clause.startswith("PAR") and cell.backend == "xnnpack"
    late = {"2026-09": False, "2026-10": True, "2026-11": True}[month]
    match cell.architecture:
        case "bamba":
            message = (
                "cannot decode with a static cache: without `position_ids`, it counts positions from 0 in every call."
            )
            return dataclasses.replace(bare_record(cell, Verdict.NOT_APPLICABLE, message))
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
            message = "the process that judged the cell ended with signal 11 (SIGSEGV)"
            return dataclasses.replace(bare_record(cell, Verdict.CRASH, message), duration_s=1.5)
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
        # As in the suite: an unexpected failure has a bundle.
        bundle=None if known else f"build/conformance/failures/{cell.id.replace('/', '--')}",
        partition=cell.partition if STAGES.index(stage) > STAGES.index(Stage.EMIT) else None,
    )


def _partition(cell: Cell, month: str) -> PartitionRecord | None:
    """What lowering made of it; an older suite only counted."""
    if month == "2026-09":
        return None
    noise, rows = _noise(cell), 1 + _noise(dataclasses.replace(cell, backend="any", mode=None))
    lost = "aten.mean.dim" if month == "2026-11" and cell.architecture == "qwen3" else ""
    delegated: dict[str, int] = {}
    undelegated: dict[str, int] = {}
    for name, (often, takers) in _OPERATORS.items():
        number = round(often * rows)
        kept = name == lost or cell.backend not in takers.split()
        if cell.mode is Mode.DYNAMIC and name == "aten.mul.Tensor" and not kept:
            undelegated[name], number = 3, number - 3
        (undelegated if kept else delegated)[name] = number
    constants, cache = int(98_304 * rows), 16_384 * (2 if cell.mode is Mode.DECODE else 3)
    slow = 2.4 if month == "2026-11" and cell.architecture == "llama" else 1.0
    return PartitionRecord(
        {_DELEGATES[cell.backend]: sum(delegated.values()) // 9} if delegated else {},
        delegated,
        undelegated,
        program_bytes=constants + 21_000 + int(18_000 * noise),
        constant_bytes=constants,
        planned_bytes=cache + 9_000 + int(40_000 * noise),
        cache_bytes=cache,
        lower_s=round((3 + 4 * noise) * slow, 3),
        emit_s=round(0.3 + noise / 2, 3),
    )


def _metrics(cell: Cell, month: str) -> dict[str, float]:
    noise = _noise(cell)
    if cell.clause == "LOW-1":
        if made := _partition(cell, month):
            taken, left = sum(made.delegated.values()), sum(made.undelegated.values())
            parts, size, lower_s, emit_s = sum(made.delegates.values()), made.program_bytes, made.lower_s, made.emit_s
        else:
            taken = 0 if cell.backend == "portable" else 96 + int(80 * noise)
            left, parts, size = 180 - taken, taken // 9, 90_000 + int(60_000 * noise)
            lower_s, emit_s = round(3 + 4 * noise, 3), round(0.3 + noise / 2, 3)
        counted = {"delegates": parts, "delegated_operators": taken, "undelegated_operators": left}
        return {
            "program_bytes": float(size),
            **{k: float(n) for k, n in counted.items()},
            "lower_s": lower_s,
            "emit_s": emit_s,
        }
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
