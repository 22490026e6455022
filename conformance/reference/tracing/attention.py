"""Attention that reads each cache once.

Transformers repeats keys and values for the queries of a group, and ATen's attention scales keys, transposes them and
guards against rows that see nothing: in a program each of these is a copy of the whole cache, or an operator that
splits a delegate. Four layers of SmolLM2's width with a cache of 1,024 tokens: 12.3 ms a token with, 5.1 without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from conformance.reference.transformers_api import ATTENTION_FUNCTIONS

#: Implementations of Transformers that others can stand for.
REPLACED = ("sdpa", "eager")
#: What models pass to every attention function, and no attention function of theirs reads.
_IGNORED = frozenset(
    {"cache_position", "dropout", "is_causal", "logits_to_keep", "output_attentions"}
    | {"output_router_logits", "position_ids", "sliding_window", "use_cache"}
)
#: Share of the largest output by which two good ways to compute attention in float32 may differ; and for a dtype with
#: less precision, in units of its last place.
_TOLERANCE, _UNITS = 1e-4, 4

Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class AttentionDiffersError(ValueError):
    """Another attention does not compute what the model's own does."""


class AdditiveMask:
    """What a mask adds to scores, made once a call of the model: all layers are given the same one.

    Args:
        per_head: Whether to keep its dimensions of batch and heads; without them it is that of the first of each.
    """

    def __init__(self, *, per_head: bool = True) -> None:
        self._per_head = per_head
        self._mask: torch.Tensor | None = None
        self._additive: torch.Tensor | None = None

    def __call__(self, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Zeros and the least number of `dtype`, for `mask`, which is boolean or additive already."""
        if self._additive is None or mask is not self._mask:
            self._mask, kept = mask, mask if self._per_head else mask[0, 0]
            # Not infinity: where the first 512 keys are all out of sight, custom_sdpa takes a difference of two.
            additive = torch.where(kept, 0.0, torch.finfo(dtype).min) if kept.dtype is torch.bool else kept
            self._additive = additive.to(dtype)
        return self._additive


class GroupedAttention:
    """Attention in two products for each head of keys and values, with the queries of its group one below the other."""

    def __init__(self) -> None:
        self._additive = AdditiveMask()

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
        """As every function of Transformers' `AttentionInterface`.

        Args:
            module: The attention layer.
            query: Shape [batch, heads, seq, size].
            key: Shape [batch, key heads, length, size]; the number of heads is a multiple of that of key heads.
            value: Shape [batch, key heads, length, value size].
            attention_mask: True or 0 where a query sees a key, shape [batch or 1, heads or 1, seq, length].
            scaling: What scores are multiplied by; the root of the size's inverse if not given.
            softcap: The bound of scores, which a tanh keeps them in.
            others: Nothing that would change the result.

        Returns:
            Shape [batch, seq, heads, value size], of the queries' dtype; and no weights.

        Raises:
            AttentionDiffersError: An argument is not understood.
        """
        if attention_mask is None:
            raise AttentionDiffersError("it has no mask")
        require_known(others)
        dtype = query.dtype
        if dtype.itemsize < torch.float32.itemsize:
            # As ATen does. XNNPACK has no batch product in bfloat16, and portable kernels take 25 times as long.
            query, key, value = query.float(), key.float(), value.float()
        batch, heads, seq, size = query.shape
        groups, length = key.shape[1:3]
        together = heads // groups
        scaled = query * (size**-0.5 if scaling is None else scaling)
        stacked = scaled.contiguous().view(batch * groups, -1, size)
        keys = key.reshape(batch * groups, length, size)
        # A dimension is split and others are merged one at a time: of both at once, torch 2.13 guards the length.
        scores = torch.bmm(stacked, keys.transpose(1, 2)).view(batch * groups, together, seq, length)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.view(batch, heads, seq, length) + self._additive(attention_mask, query.dtype)
        weights = torch.softmax(scores, dim=-1).view(batch * groups, -1, length)
        outputs = torch.bmm(weights, value.reshape(batch * groups, length, -1))
        outputs = outputs.view(batch * groups, together, seq, -1).view(batch, heads, seq, -1)
        return outputs.transpose(1, 2).contiguous().to(dtype), None


@contextmanager
def grouped_attention() -> Iterator[None]:
    """Compute attention by `GroupedAttention`, wherever a model looks its attention up; undone on exit."""
    with replaced_attention({name: GroupedAttention() for name in REPLACED}):
        yield


@contextmanager
def compared_attention() -> Iterator[None]:
    """Compute attention both ways, and go on with the model's own results; undone on exit.

    Raises:
        AttentionDiffersError: From an attention layer where the two differ.
    """
    with replaced_attention({name: compared(name, GroupedAttention()) for name in REPLACED}):
        yield


def compared(name: str, other: Attention) -> Attention:
    """The model's own attention, called `name`, which raises AttentionDiffersError where `other` gives something else.

    Args:
        name: One of `REPLACED`.
        other: The attention that is to stand for it.
    """

    registered: Attention | None = ATTENTION_FUNCTIONS.get(name)  # not "eager": each model has its own

    def attention(module: nn.Module, *arguments: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        own: Attention = getattr(sys.modules[type(module).__module__], "eager_attention_forward", _not_found)
        expected = (registered or own)(module, *arguments, **named)
        observed = other(module, *arguments, **named)[0]
        bound = max(_TOLERANCE, _UNITS * torch.finfo(observed.dtype).eps) * expected[0].abs().max()
        if observed.shape != expected[0].shape or not bool(((observed - expected[0]).abs() <= bound).all()):
            raise AttentionDiffersError(f"{type(module).__name__} gives another result")
        return expected

    return attention


def require_known(others: Mapping[str, Any]) -> None:
    """Raises AttentionDiffersError where attention is given more than what no attention function reads."""
    unknown = {name for name, given in others.items() if given is not None} - _IGNORED
    if unknown:
        raise AttentionDiffersError(f"unknown arguments {', '.join(sorted(unknown))}")


def _not_found(module: nn.Module, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
    raise AttentionDiffersError(f"the attention function of {type(module).__name__} is not found")


@contextmanager
def replaced_attention(functions: Mapping[str, Attention]) -> Iterator[None]:
    """Replace Transformers' attention implementations of these names; undone on exit.

    By its own name, since models branch on that: with another one sparse attention would leave its mask to the
    function (axk2). So it holds for every model, but not where one names functions of its own (doge), nor for "eager"
    before Transformers 5.0.
    """
    before: dict[str, Any] = {name: ATTENTION_FUNCTIONS.get(name) for name in functions}
    for name, function in functions.items():
        ATTENTION_FUNCTIONS[name] = function
    try:
        yield
    finally:
        for name, function in before.items():
            del ATTENTION_FUNCTIONS[name]
            if function is not ATTENTION_FUNCTIONS.get(name):  # it had been replaced on this instance already
                ATTENTION_FUNCTIONS[name] = function
