"""Experts by slot: the same numbers as Transformers' own, of what torch.export can trace."""

from __future__ import annotations

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference.tracing.experts import exportable_experts

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "dbrx", "longcat_flash", "jetmoe", "llama4_text"])
def test_logits_are_those_of_the_models_own_experts(architecture: str) -> None:
    model = build_model(fixture_config(architecture)).eval()
    own = {module: vars(module).get("forward") for module in model.modules()}
    ids = torch.randint(model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).logits
        with exportable_experts(model):
            logits = model(ids).logits
            exported = torch.export.export(model, (ids,), kwargs={"use_cache": False}, strict=False)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any("nonzero" in str(node.target) for node in exported.graph.nodes)
    assert {module: vars(module).get("forward") for module in model.modules()} == own


def test_experts_that_return_their_input_are_chosen_too() -> None:
    """Where the fixture chose none of them, a fault in them would not show."""
    model = build_model(fixture_config("longcat_flash")).eval()
    chosen: set[int] = set()
    for module in model.modules():
        if hasattr(module, "identity_expert"):
            routed = module.num_routed_experts
            module.register_forward_pre_hook(lambda _, inputs: chosen.update(inputs[1].flatten().tolist()))
    model(torch.arange(40)[None])
    assert any(number < routed for number in chosen)
    assert any(number >= routed for number in chosen)
