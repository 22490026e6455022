"""Local attention in a static cache."""

from __future__ import annotations

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import TorchExportableModuleWithStaticCache
from conformance.reference.tracing import ready_to_run
from conformance.reference.tracing.local_attention import windows_from_masks

pytestmark = pytest.mark.torch


def test_the_window_ends_at_each_query() -> None:
    config = fixture_config("gpt_neo")
    model = build_model(config)
    wrapper = TorchExportableModuleWithStaticCache(model)
    tokens = torch.randint(config.vocab_size, (1, wrapper.max_cache_len), generator=torch.Generator().manual_seed(0))
    assert config.window_size < wrapper.max_cache_len
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits[0]
        with ready_to_run(model, wrapper.max_cache_len):
            decoded = [wrapper(token.view(1, 1), torch.tensor([at]))[0, 0] for at, token in enumerate(tokens[0])]
            several = wrapper(tokens[:, :9], torch.arange(9))[0]
    scale = expected.abs().max()
    assert (torch.stack(decoded) - expected).abs().max() < 1e-5 * scale
    assert (several - expected[:9]).abs().max() < 1e-5 * scale


def test_forward_pass_without_cache_is_unchanged() -> None:
    model = build_model(fixture_config("gpt_neo"))
    tokens = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        with windows_from_masks(model):
            observed = model(tokens, use_cache=False).logits
    assert (observed - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any("_attn" in vars(module) for module in model.modules())
