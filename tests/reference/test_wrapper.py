"""The wrapper by itself: it decodes without being exported."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import TorchExportableModuleWithStaticCache
from conformance.reference.tracing import ready_to_run
from tests.support.messages import refused

pytestmark = pytest.mark.torch


def test_wrapper_decodes_without_being_exported() -> None:
    model = build_model(fixture_config("llama"))
    wrapper = TorchExportableModuleWithStaticCache(model, batch_size=2, max_cache_len=8)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        logits = wrapper(ids, torch.arange(3))
        expected = model(input_ids=ids, use_cache=False).logits
    assert logits.shape == (2, 3, 64)
    assert torch.allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bamba", "gpt_neo", "inkling_text", "moshi"])
def test_wrapper_decodes_what_transformers_decodes_wrongly_with_a_static_cache(architecture: str) -> None:
    model = build_model(fixture_config(architecture))
    wrapper = TorchExportableModuleWithStaticCache(model)
    tokens = torch.randint(64, (1, wrapper.max_cache_len), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits[0]
        with ready_to_run(model, wrapper.max_cache_len):
            decoded = [wrapper(token.view(1, 1), torch.tensor([at]))[0, 0] for at, token in enumerate(tokens[0])]
    assert (torch.stack(decoded) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_state_before_a_sequence_is_the_models_own() -> None:
    config = fixture_config("zaya")
    config.attention_bias = True  # of the projection of the token before, which is not zero then before the first one
    model = build_model(config)
    wrapper = TorchExportableModuleWithStaticCache(model)
    tokens = torch.tensor([[3, 9, 4]])
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits[0]
        for _ in range(2):
            decoded = [wrapper(tokens[:, at : at + 1], torch.tensor([at]))[0, 0] for at in range(3)]
            assert (torch.stack(decoded) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_state_that_overflowed_is_forgotten_at_0() -> None:
    model = build_model(fixture_config("lfm2"))
    wrapper = TorchExportableModuleWithStaticCache(model)
    with torch.no_grad():
        right = wrapper(torch.tensor([[3]]), torch.tensor([0])).clone()
        for name, buffer in wrapper.named_buffers():
            if "conv_states" in name:
                buffer.fill_(float("nan"))
        again = wrapper(torch.tensor([[3]]), torch.tensor([0]))
    assert torch.equal(right, again)


def test_model_without_generation_config_is_refused() -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = None  # type: ignore[assignment]  # which is what is wrong with it
    with refused("no-static-cache"):
        TorchExportableModuleWithStaticCache(model)


def test_arguments_win_over_the_cache_config() -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = GenerationConfig(use_cache=True, cache_implementation="static")
    wrapper = TorchExportableModuleWithStaticCache(model, batch_size=1, max_cache_len=4)
    assert wrapper.get_buffer("cache_0_keys").shape == (1, 2, 4, 8)
