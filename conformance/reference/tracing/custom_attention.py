"""Attention and cache updates by ExecuTorch's own operators, `llama::custom_sdpa` and `llama::update_cache`.

They read the cache up to the current position only, in the layout in which projections write it: [batch, length, key
heads, size]. Programs that call them need a runtime that has these kernels linked in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import StaticCache

from conformance.reference.errors import AttentionDoesNotFitError
from conformance.reference.tracing.attention import (
    REPLACED,
    AdditiveMask,
    AttentionDiffersError,
    compared,
    replaced_attention,
    require_known,
)
from conformance.reference.transformers_api import StaticLayer

#: The module that registers the operators with torch.
_MODULE = "executorch.extension.llm.custom_ops.custom_ops"


class CustomLayer(StaticLayer):
    """A layer of a static cache whose keys and values have the operators' layout: [batch, length, key heads, size].

    Models see the usual one, [batch, key heads, length, size].

    Attributes:
        start: The position that the next update writes from.
        causal: Whether all attention to it is plainly causal; False for a window, which a mask then says.
        read: Whether any attention by the operator has read it.
        shown: The keys that the model was last given.
    """

    keys: torch.Tensor
    values: torch.Tensor
    start: Any = 0
    causal: bool = True
    read: bool = False
    shown: torch.Tensor | None = None

    def __init__(self, layer: Any) -> None:
        """A copy of `layer`, which is allocated."""
        vars(self).update(vars(layer))
        self.keys = layer.keys.transpose(1, 2).contiguous()
        self.values = layer.values.transpose(1, 2).contiguous()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values, shape [batch, key heads, seq, size], and return all, [..., length, size]."""
        for states, held in ((key_states, self.keys), (value_states, self.values)):
            torch.ops.llama.update_cache(states.transpose(1, 2).contiguous(), held, self.start)
        if hasattr(self, "cumulative_length"):
            self.cumulative_length.add_(key_states.shape[2])
        self.shown = self.keys.transpose(1, 2)
        return self.shown, self.values.transpose(1, 2)

    def get_seq_length(self, *_: Any, **__: Any) -> Any:
        """The number of tokens in the cache; 4.57 would count the keys that are not 0."""
        return getattr(self, "cumulative_length", self.start)


class CustomAttention:
    """Attention by `llama::custom_sdpa`, to keys that a `CustomLayer` has given to the model.

    Args:
        layers: The layers of the model's cache.
        trial: Whether to compute by torch what the operator does, and to set the layers' `causal` and `read`. Positions
            are no symbols then. ExecuTorch 1.5.1 writes a line to the terminal in each call of the operator by torch.
    """

    def __init__(self, layers: Sequence[CustomLayer], *, trial: bool = False) -> None:
        self._layers = layers
        self._trial = trial
        self._additive = AdditiveMask(per_head=False)

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """As every function of Transformers' `AttentionInterface`; arguments and results as of `GroupedAttention`.

        Raises:
            AttentionDiffersError: The operator does not compute this attention: says why.
        """
        require_known(others)
        layer = self._layer_of(key)
        _require_operands(query, key, value, attention_mask, softcap)
        assert attention_mask is not None
        if self._trial:
            layer.read = True
            layer.causal &= _is_causal(attention_mask, layer.start)
        mask = None if layer.causal else self._additive(attention_mask, torch.float32).contiguous()
        operands = query.transpose(1, 2).contiguous(), layer.keys, layer.values, layer.start, mask
        if self._trial:
            return computed(*operands, scaling), None
        return torch.ops.llama.custom_sdpa(*operands, 0.0, layer.causal, scaling), None

    def _layer_of(self, key: torch.Tensor) -> CustomLayer:
        for layer in self._layers:
            if key is layer.shown:
                return layer
        raise AttentionDiffersError("its keys are not those that the cache returns")


def computed(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """What `llama::custom_sdpa` computes, by torch.

    Args:
        query: Shape [batch, seq, heads, size].
        keys: Shape [batch, length, key heads, size]; the number of heads is a multiple of that of key heads.
        values: The same.
        start: The position of the first query.
        mask: Added to the scores of all heads, shape [seq, length]; None for causality.
        scaling: What scores are multiplied by; the root of the size's inverse if not given.

    Returns:
        The shape and dtype of the queries.
    """
    if mask is None:
        end = start + query.shape[1]
        keys, values = keys[:, :end], values[:, :end]
        positions = torch.arange(end, device=query.device)
        mask = torch.where(positions <= positions[start:, None], 0.0, -torch.inf)
    query, keys, values = (operand.transpose(1, 2) for operand in (query, keys, values))
    attention = nn.functional.scaled_dot_product_attention
    return attention(query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True).transpose(1, 2)


@contextmanager
def custom_attention(layers: Sequence[CustomLayer], *, trial: bool = False) -> Iterator[None]:
    """Compute attention by `CustomAttention`, wherever a model looks its attention up; undone on exit."""
    function = CustomAttention(layers, trial=trial)
    with replaced_attention(dict.fromkeys(REPLACED, function)):
        yield


@contextmanager
def compared_custom_attention(layers: Sequence[CustomLayer]) -> Iterator[None]:
    """Compute attention both ways in a trial, and go on with the model's own results; undone on exit.

    Raises:
        AttentionDiffersError: From an attention layer where the two differ, or that the operator does not compute.
    """
    function = CustomAttention(layers, trial=True)
    with replaced_attention({name: compared(name, function) for name in REPLACED}):
        yield


def custom_layers(cache: StaticCache) -> list[Any]:
    """The layers of `cache`, each with keys replaced by a `CustomLayer`; those without keys are kept.

    Raises:
        AttentionDoesNotFitError: The operators are not registered, or a layer has no form for them.
    """
    if not all(hasattr(torch.ops.llama, name) for name in ("custom_sdpa", "update_cache")):
        raise AttentionDoesNotFitError(
            "attention is 'custom', but torch.ops.llama.custom_sdpa is not registered; "
            f"`import {_MODULE}` first, or use 'portable'",
        )
    return [_custom(layer) if hasattr(layer, "keys") else layer for layer in cache.layers]


def set_start(layers: Sequence[Any], start: torch.Tensor, max_cache_len: int) -> None:
    """Make each `CustomLayer` write from position `start` (int64, shape []) on; while tracing, an unbacked symbol."""
    position: Any = start.item()
    torch._check(position >= 0)
    torch._check(position < max_cache_len)
    for layer in layers:
        if isinstance(layer, CustomLayer):
            layer.start = position


def _custom(layer: Any) -> CustomLayer:
    if type(layer) is not StaticLayer:
        raise AttentionDoesNotFitError(
            f"attention is 'custom', but its operators do not support a cache layer of type {type(layer).__name__}; "
            "use 'portable'",
        )
    keys, values = (getattr(layer, name) for name in ("keys", "values"))
    for name, dtype in (("keys", keys.dtype), ("values", values.dtype)):
        # bfloat16 aborts the process up to ExecuTorch 1.4 ("FlashAttention does not support reduced types").
        if dtype is not torch.float32:
            raise AttentionDoesNotFitError(
                f"attention is 'custom', whose operator computes in float32, but {name} are "
                f"{str(dtype).removeprefix('torch.')}; convert the model to float32, or use 'portable'",
            )
    if keys.shape != values.shape:
        raise AttentionDoesNotFitError(
            "attention is 'custom', whose operator needs keys and values of one size, but keys are "
            f"{keys.shape[-1]} wide, values {values.shape[-1]}; use 'portable'",
        )
    return CustomLayer(layer)


def _require_operands(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, softcap: float | None
) -> None:
    """Raises AttentionDiffersError for what the operator cannot be given: it ends the process for some."""
    if softcap is not None:
        raise AttentionDiffersError("its scores are bounded (softcap)")
    if not query.dtype == key.dtype == value.dtype == torch.float32:
        raise AttentionDiffersError(f"its queries are {query.dtype}")
    if not query.shape[3] == key.shape[3] == value.shape[3] or query.shape[1] % key.shape[1]:
        raise AttentionDiffersError(f"its queries have the shape {list(query.shape)}, keys {list(key.shape)}")
    if mask is None:
        raise AttentionDiffersError("it has no mask")
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[3] != key.shape[2]:
        raise AttentionDiffersError(f"its mask has the shape {list(mask.shape)}; all heads need the same")


def _is_causal(mask: torch.Tensor, start: int) -> bool:
    """Whether the mask, [batch, 1, seq, length], lets each query see all keys up to its own position, and no other.

    Raises:
        AttentionDiffersError: It is not the same for all rows, or weighs keys in another way.
    """
    if not bool((mask == mask[:1]).all()):
        raise AttentionDiffersError("it has a mask for each row of the batch")
    seen = mask[0, 0] if mask.dtype is torch.bool else mask[0, 0] == 0
    last = torch.arange(start, start + mask.shape[2], device=mask.device)[:, None]
    return torch.equal(seen, torch.arange(mask.shape[3], device=mask.device) <= last)
