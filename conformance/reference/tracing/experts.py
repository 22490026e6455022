"""An experts implementation that ExecuTorch can lower, with a dynamic number of tokens too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from conformance.reference.transformers_api import experts_by_part, lets_choose_experts, register_experts

#: The name under which `experts_by_slot` is registered with Transformers.
_NAME = "batched_mm_by_slot"


@contextmanager
def exportable_experts(model: PreTrainedModel) -> Iterator[None]:
    """Compute experts by `experts_by_slot`, where Transformers lets the model choose; undone on exit."""
    if not any(isinstance(module, PreTrainedModel) and lets_choose_experts(module) for module in model.modules()):
        yield
        return
    original = experts_by_part(model)
    register_experts(_NAME, experts_by_slot)
    try:
        model.set_experts_implementation(_NAME)
        yield
    finally:
        model.set_experts_implementation(original)


def experts_by_slot(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Gather each token's k experts and multiply, with the k slots as a leading dimension of fixed size.

    Transformers' own implementations do not get through ExecuTorch 1.5.1. `grouped_mm` stops at emission ("Missing
    out variants: transformers::grouped_mm_fallback"); `eager` loops over a data-dependent number of tokens; and
    `batched_mm` flattens to [k * tokens, ...] and then chunks, where the edge verifier takes the length of the first
    chunk for the length of the list (`exir/verification/arg_validator.py`, `len(kernel_ret)`), which evaluates the
    symbolic leading dimension and freezes the sequence length: the program refuses any other with error 0x10.

    Args:
        experts: The module that holds the experts' weights, one that uses Transformers' `use_experts_implementation`.
        hidden_states: One row for each token, of the model's dtype, shape [tokens, hidden].
        top_k_index: The chosen experts, int64, shape [tokens, k].
        top_k_weights: Their weights, floating point, shape [tokens, k].

    Returns:
        The weighted sum of the chosen experts' outputs, dtype and shape of `hidden_states`.
    """
    index = top_k_index.transpose(0, 1).contiguous()  # so that what is gathered is contiguous too
    if experts.has_gate:
        inner = experts._apply_gate(_chosen_linear(experts, "gate_up_proj", index, hidden_states.unsqueeze(0)))
    else:
        inner = experts.act_fn(_chosen_linear(experts, "up_proj", index, hidden_states.unsqueeze(0)))
    outputs = _chosen_linear(experts, "down_proj", index, inner)
    if getattr(experts, "has_post_expert_norm", False):
        outputs = experts.post_expert_norm(outputs)
    weighted = outputs * top_k_weights.transpose(0, 1).unsqueeze(-1)
    return weighted.sum(dim=0).to(hidden_states.dtype)


def _chosen_linear(experts: Any, name: str, index: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The chosen experts' projection `name` of each token: [k or 1, tokens, in] to [k, tokens, out]."""
    slots, tokens = index.shape
    # In three dimensions: a product in four is traced with a copy of the gathered weights.
    weight = getattr(experts, name)[index]
    weight = weight.view(slots * tokens, *weight.shape[2:])
    rows = inputs.expand(slots, -1, -1).reshape(slots * tokens, -1)
    operands = (rows.unsqueeze(-2), weight) if experts.is_transposed else (weight, rows.unsqueeze(-1))
    outputs = torch.bmm(*operands)
    outputs = outputs.view(slots, tokens, -1)
    if experts.has_bias:
        outputs = outputs + getattr(experts, f"{name}_bias")[index]
    return outputs
