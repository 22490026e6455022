"""Attention that reads each cache once, and where it stands for the model's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as capped_attention

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import convert_and_export_with_cache
from conformance.reference.tracing.attention import (
    AdditiveMask,
    AttentionDiffersError,
    GroupedAttention,
    compared_attention,
    grouped_attention,
)
from conformance.reference.trial import can_group_attention
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache
from tests.support.harness import judge

pytestmark = pytest.mark.torch

_LENGTH = 12


class _Layer(torch.nn.Module):
    training = False

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.head_dim = 8
        self.is_causal = True


def _inputs(
    groups: int, *, seq: int = 3, batch: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[_Layer, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    keys, values = draw(batch, 2, _LENGTH, 8), draw(batch, 2, _LENGTH, 6)
    # Queries come transposed, as of a projection.
    return _Layer(groups), draw(batch, seq, 2 * groups, 8).transpose(1, 2), keys, values


def _mask(seq: int = 3, heads: int = 1, batch: int = 1) -> torch.Tensor:
    allowed = torch.arange(_LENGTH) <= torch.arange(5, 5 + seq)[:, None]
    drawn = torch.rand((batch, heads, seq, _LENGTH), generator=torch.Generator().manual_seed(1)) < 0.8
    return (allowed & drawn) | (torch.arange(_LENGTH) == 0)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("seq", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("per_head", [False, True])
def test_it_is_attention(groups: int, seq: int, batch: int, per_head: bool) -> None:
    inputs = _inputs(groups, seq=seq, batch=batch)
    mask = _mask(seq, 2 * groups if per_head else 1, batch)
    expected = sdpa_attention_forward(*inputs, mask, scaling=0.3)[0]
    additive = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    for each in (mask, additive):
        observed = GroupedAttention()(*inputs, each, scaling=0.3, dropout=0.0, sliding_window=4)[0]
        assert observed.shape == expected.shape
        assert torch.allclose(observed, expected, atol=1e-6)


def test_it_scales_by_the_head_size_by_default() -> None:
    assert torch.allclose(
        GroupedAttention()(*_inputs(3), _mask())[0], sdpa_attention_forward(*_inputs(3), _mask())[0], atol=1e-6
    )


def test_it_caps_scores() -> None:
    layer, query, key, value = _inputs(3)
    mask = torch.where(_mask(), 0.0, torch.finfo(torch.float32).min)
    expected = capped_attention(layer, query, key, value[..., :6], mask, scaling=0.3, softcap=0.5)[0]
    assert torch.allclose(GroupedAttention()(layer, query, key, value, mask, scaling=0.3, softcap=0.5)[0], expected)


def test_in_half_precision_it_computes_in_float32() -> None:
    layer, query, key, value = _inputs(3, dtype=torch.bfloat16)
    observed = GroupedAttention()(layer, query, key, value, _mask())[0]
    exact = sdpa_attention_forward(layer, query.float(), key.float(), value.float(), _mask())[0]
    assert observed.dtype is torch.bfloat16
    assert torch.allclose(observed.float(), exact, rtol=2**-8)


def test_a_mask_is_made_additive_once() -> None:
    additive, mask = AdditiveMask(), _mask()
    first = additive(mask, torch.float32)
    assert additive(mask, torch.float32) is first
    assert additive(_mask(), torch.float32) is not first


@pytest.mark.parametrize("given", [{"s_aux": torch.zeros(6)}, {"position_bias": torch.zeros(1)}, {"of_2030": True}])
def test_what_it_does_not_know_it_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(AttentionDiffersError, match=next(iter(given))):
        GroupedAttention()(*_inputs(3), _mask(), **given)


def test_it_refuses_to_guess_a_mask() -> None:
    with pytest.raises(AttentionDiffersError, match="no mask"):
        GroupedAttention()(*_inputs(3), None)


@pytest.mark.parametrize("context", [grouped_attention, compared_attention])
def test_it_has_the_names_of_what_it_replaces_and_is_undone(context: Callable[[], Any]) -> None:
    before = dict(ALL_ATTENTION_FUNCTIONS)
    with context():
        assert set(ALL_ATTENTION_FUNCTIONS) == {*before, "eager"}
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not sdpa_attention_forward
    assert dict(ALL_ATTENTION_FUNCTIONS) == before


def _can(model: PreTrainedModel) -> bool:
    wrapper = TorchExportableModuleWithStaticCache(model)
    before = {name: buffer.clone() for name, buffer in wrapper.named_buffers()}
    can = can_group_attention(wrapper, torch.zeros((1, 1), dtype=torch.long), several=True)
    assert all(torch.equal(buffer, before[name]) for name, buffer in wrapper.named_buffers())
    return can


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "deepseek_v3", "gemma3_text", "gpt2"])
def test_it_stands_for_most_attention(architecture: str) -> None:
    assert _can(build_model(fixture_config(architecture)))


def test_sinks_are_left_to_the_model() -> None:
    assert not _can(build_model(fixture_config("gpt_oss")))


def test_a_model_that_goes_by_the_name_of_its_attention_decodes_right() -> None:
    # With an implementation of another name, the indexer of this one would not mask what it does not choose.
    judge("PAR-1", "axk2", convert_and_export_with_cache)


def _sharpened(attention: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(attention)
    def forward(module: Any, query: torch.Tensor, *others: Any, **named: Any) -> Any:
        return attention(module, query * 1.01, *others, **named)

    return forward


def test_an_attention_that_is_a_hundredth_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", _sharpened(sdpa_attention_forward))
    assert not _can(build_model(fixture_config("llama")))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_program_repeats_no_cache(dynamic: bool) -> None:
    model = build_model(fixture_config("llama"))
    seq = torch.export.Dim("seq", min=1, max=32)
    shapes = {"input_ids": {1: seq}, "cache_position": {0: seq}} if dynamic else None
    program = convert_and_export_with_cache(model, dynamic_shapes=shapes)
    config = model.config
    cached = config.num_key_value_heads * config.head_dim
    assert config.num_attention_heads > config.num_key_value_heads, "else there is nothing to repeat"
    sizes = {
        node.name: node.meta["val"].numel() // 32
        for node in program.graph.nodes
        if node.op == "call_function" and 32 in getattr(node.meta.get("val"), "shape", ())
    }
    assert any(size == cached for size in sizes.values())
    assert not [name for name, size in sizes.items() if isinstance(size, int) and size > cached]
