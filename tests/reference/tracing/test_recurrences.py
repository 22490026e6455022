"""Recurrences as scans."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from conformance.core.contract import Mode
from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import convert_and_export_with_cache
from conformance.reference.tracing import recurrences
from tests.support.harness import judge

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("architecture", "clause"),
    [("qwen3_next", "EXP-5"), ("kimi_linear", "EXP-5"), ("mamba2", "PAR-2"), ("nemotron_h", "PAR-2")],
)
def test_recurrences_take_chunks_of_any_length(architecture: str, clause: str) -> None:
    kernels = {name: dict(vars(sys.modules[name])) for name in _own_modules(architecture)}
    judge(clause, architecture, convert_and_export_with_cache, mode=Mode.DYNAMIC)
    for name, before in kernels.items():
        assert dict(vars(sys.modules[name])) == before, "a kernel was left replaced"


def _own_modules(architecture: str) -> set[str]:
    return {type(module).__module__ for module in build_model(fixture_config(architecture)).modules()}


@pytest.mark.parametrize(
    ("chunked", "inputs", "state"),
    [
        ("chunk_gated_delta_rule", [(2, 3, 5, 7)] * 2 + [(2, 3, 5, 11), (2, 3, 5), (2, 3, 5)], (2, 5, 7, 11)),
        ("mamba_chunk_scan_combined", [(2, 3, 5, 7), (2, 3, 5), (5,), (2, 3, 5, 11), (2, 3, 5, 11)], (2, 5, 7, 11)),
        ("selective_scan_fn", [(2, 5, 3), (2, 5, 3), (5, 11), (2, 11, 3), (2, 11, 3)], (2, 5, 11)),
    ],
)
def test_without_a_state_a_scan_starts_from_zeros(
    chunked: str, inputs: list[tuple[int, ...]], state: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[torch.Tensor] = []

    def scan(_step: Any, start: torch.Tensor, tokens: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        starts.append(start)
        return start, tokens[0]

    monkeypatch.setattr(recurrences, "scan", scan)
    scanned: Any = recurrences._SCANS[chunked][1](lambda: None, recurrences._LastState())
    options = {"chunk_size": 64} if chunked == "mamba_chunk_scan_combined" else {}
    scanned(*(torch.ones(shape) for shape in inputs), **options)
    assert tuple(starts[0].shape) == state
    assert not starts[0].any()
