"""Activations as elementary operators."""

from __future__ import annotations

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference.tracing.activations import decomposed_activations, tanh_gelu

pytestmark = pytest.mark.torch


def test_tanh_gelu_is_decomposed_while_tracing_only() -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert torch.allclose(tanh_gelu(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=0, atol=1e-12)
    model = build_model(fixture_config("gemma3_text"))
    before = [module.act for module in model.modules() if hasattr(module, "act")]
    with decomposed_activations(model):
        assert [module.act for module in model.modules() if hasattr(module, "act")] == [tanh_gelu] * len(before)
    assert [module.act for module in model.modules() if hasattr(module, "act")] == before
    assert before
