"""Experts as ExecuTorch can lower them, with a dynamic number of tokens too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.reference.tracing.methods import replaced_methods
from conformance.reference.transformers_api import experts_by_part, lets_choose_experts, register_experts

#: The name under which `experts_by_slot` is registered with Transformers.
_NAME = "batched_mm_by_slot"


@contextmanager
def exportable_experts(model: PreTrainedModel) -> Iterator[None]:
    """Compute experts by slot: by `experts_by_slot` where Transformers lets the model choose; undone on exit."""
    with replaced_methods({module: _by_slot(module) for module in model.modules()}), _chosen_by_slot(model):
        yield


@contextmanager
def _chosen_by_slot(model: PreTrainedModel) -> Iterator[None]:
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


def _by_slot(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """By name, what replaces methods of a module that does experts by itself, and not by Transformers' choice.

    Most loop over the experts that were hit, or split by how many tokens each gets. That depends on the data, which
    torch.export cannot trace, or ExecuTorch cannot lower. The modules are known by their parts.
    """
    methods: dict[str, Callable[..., Any]] = {}
    if _has(getattr(module, "mlp", None), "w1", "v1", "w2", "activation_fn"):
        methods = {"forward": _flat_experts}
    elif _has(module, "identity_expert", "num_routed_experts", "gate_up_proj", "down_proj"):
        methods = {"forward": _experts_with_identities}
    elif _has(module, "router", "shared_expert") and _has(module.experts, "expert_dim", "gate_up_proj", "down_proj"):
        methods = {"forward": _all_experts}
    elif _has(module, "router", "input_linear", "output_linear", "bias", "map", "reduce"):
        methods = {"map": _queries, "reduce": _reduced}
    elif _has(module, "router", "input_linear", "output_linear", "bias"):
        methods = {"forward": _sorted_experts}
    return {name: partial(method, module) for name, method in methods.items()}


def _has(part: object, *names: str) -> bool:
    return all(hasattr(part, name) for name in names)


def _flat_experts(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """As `DbrxExperts`, whose matrices have all experts one below the other: [batch, seq, hidden] to the same."""
    shape = (experts.num_experts, experts.ffn_hidden_size, experts.hidden_size)
    gate, up, down = (getattr(experts.mlp, name).view(shape) for name in ("w1", "v1", "w2"))
    rows, index = hidden_states.reshape(1, -1, experts.hidden_size), _slots_first(top_k_index)
    inner = experts.mlp.activation_fn(_chosen_linear(gate, index, rows)) * _chosen_linear(up, index, rows)
    outputs = _chosen_linear(down, index, inner, transposed=True)
    return _weighted(outputs, top_k_weights).view(hidden_states.shape)


def _experts_with_identities(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """As `LongcatFlashExperts`: those from `num_routed_experts` on return their input. [tokens, hidden] to the same."""
    index, routed = _slots_first(top_k_index), experts.num_routed_experts
    outputs = hidden_states.expand(index.shape[0], -1, -1)
    if routed:
        chosen = index.clamp(max=routed - 1)
        gate, up = _chosen_linear(experts.gate_up_proj, chosen, hidden_states.unsqueeze(0)).chunk(2, dim=-1)
        through = _chosen_linear(experts.down_proj, chosen, experts.act_fn(gate) * up)
        outputs = torch.where((index < routed).unsqueeze(-1), through, outputs)
    return _weighted(outputs, top_k_weights).to(hidden_states.dtype)


#: Of [tokens, k]: weights and chosen experts.
_Routing = tuple[torch.Tensor, torch.Tensor]


def _sorted_experts(moe: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """As `JetMoeMoE`, which sorts the rows by expert: [batch, seq, hidden] to the same."""
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    (weights, chosen), _ = _routing(moe.router, tokens)
    index = _slots_first(chosen)
    gate, up = _chosen_linear(moe.input_linear.weight, index, tokens.unsqueeze(0)).chunk(2, dim=-1)
    outputs = _chosen_linear(moe.output_linear.weight, index, moe.activation(gate) * up)
    result: torch.Tensor = _weighted(outputs, weights).view(hidden_states.shape) + moe.bias
    return result


def _queries(moe: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Routing]:
    """As `JetMoeMoA.map`, whose experts make queries: [batch, seq, hidden] to [batch, seq, k, out]; logits; routing."""
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    routing, logits = _routing(moe.router, tokens)
    outputs = _chosen_linear(moe.input_linear.weight, _slots_first(routing[1]), tokens.unsqueeze(0))
    return outputs.transpose(0, 1).contiguous().view(*hidden_states.shape[:2], moe.top_k, -1), logits, routing


def _reduced(moe: Any, attended: torch.Tensor, routing: _Routing) -> torch.Tensor:
    """As `JetMoeMoA.reduce`, whose experts project what their queries found: [batch, seq, k, in] to [.., hidden]."""
    weights, chosen = routing
    rows = attended.reshape(*chosen.shape, -1).transpose(0, 1)
    outputs = _chosen_linear(moe.output_linear.weight, _slots_first(chosen), rows)
    result: torch.Tensor = _weighted(outputs, weights).view(*attended.shape[:2], -1) + moe.bias
    return result


def _routing(router: Any, tokens: torch.Tensor) -> tuple[_Routing, torch.Tensor]:
    """As `JetMoeTopKGating` weighs experts, without sorting and counting."""
    logits = router.layer(tokens).float()
    top, chosen = logits.topk(router.top_k, dim=1)
    return (top.softmax(dim=1).type_as(tokens), chosen), logits


def _all_experts(moe: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `Llama4TextMoe`, which gives every token to every expert, times a score that is 0 for those not chosen.

    It repeats the tokens and views them by expert. That the view is contiguous is decided by a guard on the number of
    tokens, which holds for each and is not proved (https://github.com/pytorch/pytorch/issues/165032).
    """
    tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
    scores, logits = moe.router(tokens)
    scored = tokens.unsqueeze(0) * scores.transpose(0, 1).unsqueeze(-1)
    gate, up = torch.bmm(scored, moe.experts.gate_up_proj).chunk(2, dim=-1)
    routed = torch.bmm(up * moe.experts.act_fn(gate), moe.experts.down_proj)
    return moe.shared_expert(tokens) + routed.sum(dim=0), logits


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
    index, rows = _slots_first(top_k_index), hidden_states.unsqueeze(0)

    def linear(name: str, inputs: torch.Tensor) -> torch.Tensor:
        outputs = _chosen_linear(getattr(experts, name), index, inputs, transposed=experts.is_transposed)
        return outputs + getattr(experts, f"{name}_bias")[index] if experts.has_bias else outputs

    if experts.has_gate:
        inner = experts._apply_gate(linear("gate_up_proj", rows))
    else:
        inner = experts.act_fn(linear("up_proj", rows))
    outputs = linear("down_proj", inner)
    if getattr(experts, "has_post_expert_norm", False):
        outputs = experts.post_expert_norm(outputs)
    return _weighted(outputs, top_k_weights).to(hidden_states.dtype)


def _slots_first(top_k_index: torch.Tensor) -> torch.Tensor:
    """[tokens, k] to [k, tokens], contiguous, so that what is gathered by it is contiguous too."""
    return top_k_index.transpose(0, 1).contiguous()


def _weighted(outputs: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    """The sum over the slots, [k, tokens, hidden] to [tokens, hidden], by weights [tokens, k]."""
    return (outputs * top_k_weights.transpose(0, 1).unsqueeze(-1)).sum(dim=0)


def _chosen_linear(
    weights: torch.Tensor, index: torch.Tensor, inputs: torch.Tensor, *, transposed: bool = False
) -> torch.Tensor:
    """The product of each token with its chosen experts' weights: [k or 1, tokens, in] to [k, tokens, out].

    Args:
        weights: Of all experts, shape [experts, out, in], or [experts, in, out] if `transposed`.
        index: The chosen experts, int64, shape [k, tokens].
        inputs: The tokens.
        transposed: How `weights` lie.
    """
    slots, tokens = index.shape
    # In three dimensions: a product in four is traced with a copy of the gathered weights.
    weight = weights[index].view(slots * tokens, *weights.shape[1:])
    rows = inputs.expand(slots, -1, -1).reshape(slots * tokens, -1)
    operands = (rows.unsqueeze(-2), weight) if transposed else (weight, rows.unsqueeze(-1))
    return torch.bmm(*operands).view(slots, tokens, -1)
