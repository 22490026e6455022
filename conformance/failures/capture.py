"""From a cell that has just failed to its failure bundle."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from conformance.checks.case import Case
from conformance.core.verdicts import CellFailedError, NotApplicableError
from conformance.decoding.scripts import DecodeScript
from conformance.failures import reproduce
from conformance.failures.localize import DIVERGENCE, as_json
from conformance.failures.outcome import Outcome
from conformance.models.variations import of_row, row_values
from conformance.records.bundle import SCHEMA_VERSION, Bundle, BundledCall
from conformance.records.run import CellRecord


def bundle_of(
    case: Case, outcome: Outcome, record: CellRecord, versions: Mapping[str, str]
) -> tuple[Bundle, dict[str, bytes]]:
    """The bundle of a cell that has failed, and by name the other files that belong into its folder.

    Args:
        case: The cell, with the models and programs that were built for it.
        outcome: How its check ended.
        record: Its entry in the run record.
        versions: Installed packages.
    """
    variation = of_row(case.cell.architecture)
    shown, divergence = getattr(outcome.error, "script", None), outcome.divergence
    script = shown if isinstance(shown, DecodeScript) else None  # or a conversation, which the check holds anew
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        architecture=case.cell.architecture,
        subject=case.cell.subject,
        backend=case.cell.backend,
        mode=case.cell.mode,
        clause=case.cell.clause,
        stage=record.stage,
        signature=record.signature,
        message=record.message or "",
        versions=dict(versions),
        config=_config(case),
        max_cache_len=variation.max_cache_len,
        settings=dict(variation.settings),
        calls=tuple(BundledCall(call.position, call.tokens) for call in script.calls) if script else None,
        examples=case.examples,
        tolerance=case.tolerance,
        logits_scale=_scale(case),
        diverged=divergence.first.step if divergence and divergence.first else None,
    )
    details = {DIVERGENCE: as_json(divergence)} if divergence else {}
    return bundle, {**_files(case, outcome.error), **details}


def _config(case: Case) -> dict[str, Any] | None:
    try:
        return row_values(case.cell.architecture)
    except (ValueError, OSError):
        return None


def _scale(case: Case) -> float | None:
    try:
        return case.untried_oracle.scale
    except (CellFailedError, NotApplicableError):
        return None


def _files(case: Case, error: BaseException | None) -> dict[str, bytes]:
    """All that has been built already."""
    files = {"reproduce.py": Path(str(reproduce.__file__)).read_bytes()}
    program = case.cell.program
    built = case.builder.program(program) if program else case.architecture
    logits = {name: getattr(error, name, None) for name in ("observed_logits", "expected_logits")}
    if all(isinstance(tensor, torch.Tensor) for tensor in logits.values()):
        held = io.BytesIO()
        torch.save({name.partition("_")[0]: tensor for name, tensor in logits.items()}, held)
        files["logits.pt"] = held.getvalue()
    return {**files, **built.evidence}
