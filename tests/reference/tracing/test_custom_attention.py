"""Attention by ExecuTorch's own operators: where they stand for the model's own, and why not elsewhere."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from conformance.models.fixtures import build_model, cache_length, fixture_config
from conformance.reference import (
    convert_and_export_with_cache,
    runner_methods,
)
from conformance.reference.tracing import custom_attention
from conformance.reference.tracing.custom_attention import CustomLayer
from conformance.reference.trial import adopt_custom_attention
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache
from tests.support.messages import refused

pytestmark = pytest.mark.torch

_TOKEN = torch.zeros((1, 1), dtype=torch.long)
_export = functools.partial(convert_and_export_with_cache, attention="custom")


@pytest.fixture(autouse=True, scope="module")
def _operators() -> None:
    importlib.import_module("executorch.extension.llm.custom_ops.custom_ops")


def _adopted(model: PreTrainedModel, **options: Any) -> TorchExportableModuleWithStaticCache:
    wrapper = TorchExportableModuleWithStaticCache(model, **options)
    adopt_custom_attention(wrapper, _TOKEN, several=True)
    return wrapper


def _shapes(length: int) -> dict[str, Any]:
    seq = torch.export.Dim("seq", min=1, max=length)
    return {"input_ids": {1: seq}, "cache_position": {0: seq}}


@pytest.mark.parametrize(("architecture", "strict"), [("llama", False), ("mistral", True)])
def test_program_calls_the_operators_alone(architecture: str, strict: bool) -> None:
    model = build_model(fixture_config(architecture))
    program = _export(model, dynamic_shapes=_shapes(cache_length(model)), strict=strict)
    called = Counter(str(node.target) for node in program.graph.nodes)
    layers = model.config.num_hidden_layers
    assert called["llama.custom_sdpa.default"] == layers
    assert called["llama.update_cache.default"] == 2 * layers
    assert not [name for name in called if "softmax" in name or "index_copy" in name or "scaled_dot" in name]
    expected = convert_and_export_with_cache(model, dynamic_shapes=_shapes(cache_length(model))).module()
    observed = program.module()
    for start, count in ((0, 9), (9, 1), (10, 22), (5, 2), (31, 1)):
        call = torch.arange(count)[None] * 7 % 64, torch.arange(start, start + count)
        assert torch.allclose(observed(*call), expected(*call), rtol=1e-4, atol=1e-5), start


@pytest.mark.parametrize(
    ("max_cache_len", "causal"), [(32, {"sliding_attention": False, "full_attention": True}), (8, {})]
)
def test_a_window_is_a_mask_where_the_cache_is_longer(max_cache_len: int, causal: dict[str, bool]) -> None:
    model = build_model(fixture_config("gemma3_text"))
    wrapper = _adopted(model, max_cache_len=max_cache_len)
    assert model.config.sliding_window == 8
    assert [layer.causal for layer in wrapper.custom_layers] == [
        causal.get(kind, True) for kind in model.config.layer_types
    ]
    assert not any(buffer.any() for name, buffer in wrapper.named_buffers() if name.startswith("cache"))


@pytest.mark.parametrize(
    "architecture",
    [
        "deepseek_v3",  # keys and values of different sizes
        "gemma2",  # its scores are bounded
        "gpt_oss",  # sinks
        "falcon",  # attention of its own
        "mamba",  # no keys
    ],
)
def test_a_model_that_it_does_not_fit_is_refused(architecture: str) -> None:
    model, functions = build_model(fixture_config(architecture)), set(ALL_ATTENTION_FUNCTIONS)
    with refused("custom-attention"):
        _export(model)
    assert set(ALL_ATTENTION_FUNCTIONS) == functions
    assert model.config._attn_implementation in ("sdpa", "eager", None)


def test_it_computes_in_float32_alone() -> None:
    model: Any = build_model(fixture_config("llama"))
    with refused("custom-attention"):
        _export(model.to(torch.bfloat16))


def test_without_the_operators_the_error_names_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "llama", SimpleNamespace())
    with refused("custom-attention"):
        _export(build_model(fixture_config("llama")))


def test_other_names_are_refused() -> None:
    with refused("invalid-attention"):
        convert_and_export_with_cache(build_model(fixture_config("llama")), attention="flash")


@pytest.mark.parametrize("attention", ["portable", "custom"])
def test_the_runner_reads_which_attention_it_is(attention: str) -> None:
    methods = runner_methods(build_model(fixture_config("llama")), dynamic=False, attention=attention)
    assert methods["use_sdpa_with_kv_cache"] is (attention == "custom")


def _sharpened(module: Any, query: torch.Tensor, *others: Any, **named: Any) -> Any:
    return sdpa_attention_forward(module, query * 1.01, *others, **named)


def test_an_attention_that_is_a_hundredth_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", _sharpened)
    with refused("custom-attention"):
        _export(build_model(fixture_config("llama")))


class _Misplacing(CustomLayer):
    """Writes keys and values one position late."""

    def update(self, *states: torch.Tensor, **others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.start = min(self.start + 1, self.keys.shape[1] - states[0].shape[2])
        return super().update(*states, **others)


class _Mixing(CustomLayer):
    """Shows the model keys that the operator does not read."""

    def update(self, *states: torch.Tensor, **others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(*states, **others)
        return keys * 1.0, values


@pytest.mark.parametrize("layer", [_Misplacing, _Mixing])
def test_a_cache_that_is_wrong_is_noticed(layer: type[CustomLayer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_attention, "CustomLayer", layer)
    monkeypatch.setattr(layer, "__init__", CustomLayer.__init__)
    with refused("custom-attention"):
        _export(build_model(fixture_config("llama")))


@pytest.mark.parametrize("seq", [1, 3])
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("window", [None, 2])
def test_what_a_trial_computes_is_what_the_operator_does(
    seq: int, start: int, scaling: float | None, window: int | None
) -> None:
    query, keys, values = torch.randn(2, seq, 6, 8), torch.randn(2, 12, 2, 8), torch.randn(2, 12, 2, 8)
    mask = None
    if window is not None:
        distance = torch.arange(start, start + seq)[:, None] - torch.arange(12)
        mask = torch.where((distance >= 0) & (distance < window), 0.0, torch.finfo(torch.float32).min)
    observed = torch.ops.llama.custom_sdpa(query, keys, values, start, mask, 0.0, mask is None, scaling)
    expected = custom_attention.computed(query, keys, values, start, mask, scaling)
    assert torch.allclose(observed, expected, atol=1e-5)


def test_a_position_before_the_cache_is_refused() -> None:
    wrapper = _adopted(build_model(fixture_config("llama")))
    for position in (-1, -(1 << 40), 32):
        with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
            wrapper(_TOKEN, torch.tensor([position]))
