"""Recurrences as scans."""

from __future__ import annotations

import sys

import pytest

from conformance.core.contract import Mode
from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import convert_and_export_with_cache
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
