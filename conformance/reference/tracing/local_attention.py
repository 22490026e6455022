"""Local attention whose window is found from the mask, not from the number of keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from conformance.reference.tracing.methods import replaced_methods


@contextmanager
def windows_from_masks(model: nn.Module) -> Iterator[None]:
    """Give GPT-Neo's local layers a window that ends at each query's own position; undone on exit.

    They take the last rows of a table, as many as there are queries, out of as many as there are keys. In a static
    cache these are all its positions, so that each query gets the window of the cache's last ones.
    """
    local = [module for module in model.modules() if getattr(module, "attention_type", None) == "local"]
    windowed = [module for module in local if hasattr(module, "_attn")]
    with replaced_methods({module: {"_attn": partial(_attended, module)} for module in windowed}):
        yield


def _attended(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, [batch, heads, seq, head], and weights, [batch, heads, seq, keys]; the mask is added to the scores."""
    if attention_mask is None:  # the queries are at the positions of the keys, without a cache
        method: Any = type(module)._attn  # which this one is called in place of
        attended: tuple[torch.Tensor, torch.Tensor] = method(module, query, key, value)
        return attended
    weights = query.float() @ key.float().transpose(-1, -2)
    # Causal and without padding: the keys that a query sees are those up to its own position.
    position = (attention_mask == 0).sum(dim=-1, keepdim=True) - 1
    far = torch.arange(key.shape[-2], device=key.device) <= position - module.config.window_size
    weights = (weights + attention_mask).masked_fill(far, torch.finfo(weights.dtype).min)
    weights = module.attn_dropout(nn.functional.softmax(weights, dim=-1).to(value.dtype))
    return weights @ value, weights
