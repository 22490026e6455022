"""An experts implementation that ExecuTorch can lower, with a dynamic number of tokens too."""

from __future__ import annotations

from typing import Any

import torch

from conformance.reference.transformers_api import register_experts

#: The name under which Transformers finds `experts_by_slot`.
EXPERTS_BY_SLOT = "batched_mm_by_slot"


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
        hidden_states: One row a token, shape [tokens, hidden].
        top_k_index: The chosen experts, int64, shape [tokens, k].
        top_k_weights: Their weights, shape [tokens, k].

    Returns:
        The weighted sum of the chosen experts' outputs, shape [tokens, hidden].
    """
    index = top_k_index.transpose(0, 1)
    if experts.has_gate:
        inner = experts._apply_gate(_chosen_linear(experts, "gate_up_proj", index, hidden_states.unsqueeze(0)))
    else:
        inner = experts.act_fn(_chosen_linear(experts, "up_proj", index, hidden_states.unsqueeze(0)))
    outputs = _chosen_linear(experts, "down_proj", index, inner)
    if getattr(experts, "has_post_expert_norm", False):
        outputs = experts.post_expert_norm(outputs)
    weighted = outputs * top_k_weights.transpose(0, 1).unsqueeze(-1)
    return weighted.sum(dim=0).to(hidden_states.dtype)


def register_experts_by_slot() -> None:
    """Make the implementation known to Transformers; doing so again changes nothing."""
    register_experts(EXPERTS_BY_SLOT, experts_by_slot)


def _chosen_linear(experts: Any, name: str, index: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Each token through the chosen expert's projection: [k or 1, tokens, in] to [k, tokens, out]."""
    weight = getattr(experts, name)[index]
    if experts.is_transposed:
        outputs = torch.matmul(inputs.unsqueeze(-2), weight).squeeze(-2)
    else:
        outputs = torch.matmul(weight, inputs.unsqueeze(-1)).squeeze(-1)
    if experts.has_bias:
        outputs = outputs + getattr(experts, f"{name}_bias")[index]
    return outputs
