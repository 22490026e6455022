"""Deliberate faults that only a variation of a fixture shows: of rotary scaling, long caches, sizes, half precision.

Each is the reference on a model, or with inputs, that have been made wrong in one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.reference import convert_and_export_with_cache, exporter
from tests.faults.programs import _subject

#: The largest number that float16 has.
_FLOAT16 = 65_504.0


def _of_model(change: Callable[[Any], None]) -> Callable[..., ExportedProgram]:
    """The reference, on a model that `change` has made wrong."""

    def export(model: PreTrainedModel, *examples: Tensor, **options: Any) -> ExportedProgram:
        change(model)
        return convert_and_export_with_cache(model, *examples, **options)

    export.__name__ = change.__name__.removeprefix("_")
    return export


def _modules(model: Any, ending: str) -> list[Any]:
    return [module for name, module in model.named_modules() if name.endswith(ending)]


# Rotary scaling


def _ignores_rotary_scaling(model: Any) -> None:
    rotary, size = model.model.rotary_emb, model.config.head_dim
    rotary.inv_freq = 1.0 / 10_000.0 ** (torch.arange(0, size, 2) / size)


def _forgets_the_attention_factor(model: Any) -> None:
    model.model.rotary_emb.attention_scaling = 1.0


# Long caches and vocabularies


def _counts_positions_in_8_bits(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position % 256)


def _saturates_positions_at_127(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position.clamp(max=127))


def _keeps_ids_in_8_bits(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids % 256, position)


# Odd sizes


def _rounds_the_window_up(model: Any) -> None:
    model.config.sliding_window = 8
    for module in model.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = 8


def _rounds_the_head_size_up(model: Any) -> None:
    for attention in _modules(model, "self_attn"):
        attention.scaling = 8**-0.5


# Half precision


def _rotates_in_half_precision(model: Any) -> None:
    rotary = model.model.rotary_emb

    def forward(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].to(x.dtype) * rotary.inv_freq.to(x.dtype)
        both = torch.cat([angles, angles], -1)
        return both.cos(), both.sin()

    rotary.forward = forward


def _masks_in_half_precision(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position.to(torch.bfloat16).to(torch.long))


def sums_in_half_precision(model: PreTrainedModel, *examples: Tensor, **options: Any) -> ExportedProgram:
    """Adds up the weights of attention one by one, in the model's own dtype."""
    ungrouped = mock.patch.object(exporter, "can_group_attention", return_value=False)
    with ungrouped, mock.patch.object(nn.functional, "scaled_dot_product_attention", _attend_with_half_sums):
        return convert_and_export_with_cache(model, *examples, **options)


def _attend_with_half_sums(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, scale: float, **_: Any
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~attn_mask, -1e4)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = torch.zeros_like(weights[..., :1])
    for weight in weights.split(1, -1):
        total = total + weight
    return weights / total @ value


# Biases, ties, activations


def _drops_biases(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_parameter("bias", None)


def _drops_biases_of_outputs(model: Any) -> None:
    for module in (*_modules(model, "o_proj"), *_modules(model, "down_proj")):
        module.bias = None


def _unties_the_head(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0))


def _changes_the_embedding_of_a_tied_head(model: Any) -> None:
    model.model.embed_tokens.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.lm_head.weight[-1] = 0.0


def _approximates_gelu(model: Any) -> None:
    for mlp in _modules(model, "mlp"):
        mlp.act_fn = nn.GELU(approximate="tanh")


def _takes_relu_for_gelu(model: Any) -> None:
    for mlp in _modules(model, "mlp"):
        mlp.act_fn = nn.ReLU()


# Large logits


class _Clamped(nn.Module):
    def __init__(self, head: nn.Module, most: float) -> None:
        super().__init__()
        self.head = head
        self.most = most

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden)
        return logits.clamp(-self.most, self.most)


def _clamps_logits_to_float16(model: Any) -> None:
    model.lm_head = _Clamped(model.lm_head, _FLOAT16)


def _clamps_logits_to_100(model: Any) -> None:
    model.lm_head = _Clamped(model.lm_head, 100.0)


ignores_rotary_scaling = _of_model(_ignores_rotary_scaling)
forgets_the_attention_factor = _of_model(_forgets_the_attention_factor)
counts_positions_in_8_bits = _subject(_counts_positions_in_8_bits)
saturates_positions_at_127 = _subject(_saturates_positions_at_127)
keeps_ids_in_8_bits = _subject(_keeps_ids_in_8_bits)
rounds_the_window_up = _of_model(_rounds_the_window_up)
rounds_the_head_size_up = _of_model(_rounds_the_head_size_up)
rotates_in_half_precision = _of_model(_rotates_in_half_precision)
masks_in_half_precision = _subject(_masks_in_half_precision)
drops_biases = _of_model(_drops_biases)
drops_biases_of_outputs = _of_model(_drops_biases_of_outputs)
unties_the_head = _of_model(_unties_the_head)
changes_the_embedding_of_a_tied_head = _of_model(_changes_the_embedding_of_a_tied_head)
approximates_gelu = _of_model(_approximates_gelu)
takes_relu_for_gelu = _of_model(_takes_relu_for_gelu)
clamps_logits_to_float16 = _of_model(_clamps_logits_to_float16)
clamps_logits_to_100 = _of_model(_clamps_logits_to_100)
