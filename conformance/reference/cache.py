"""The tensors of a Transformers `StaticCache` as a flat list with names, so that a module can register them as buffers.

Nothing here depends on the architecture. The cache allocates itself while the model runs one token; its layers then
list the tensors that they hold: keys and values of any shape, indexer keys, convolution and recurrent states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, StaticCache

from conformance.reference.settings import CacheSettings
from conformance.reference.transformers_api import cache_argument, full_length, is_recurrent_state


@dataclass(frozen=True, slots=True)
class CacheSlot:
    """The place of one state tensor in a cache: `layers[layer].attribute`, or `...attribute[key]` for a dict."""

    layer: int
    attribute: str
    key: int | None = None

    @property
    def buffer_name(self) -> str:
        """A name that is valid for a buffer and unique in the cache, such as `cache_0_keys`."""
        suffix = "" if self.key is None else f"_{self.key}"
        return f"cache_{self.layer}_{self.attribute}{suffix}"

    def read(self, cache: StaticCache) -> torch.Tensor:
        """The tensor in this slot."""
        value = getattr(cache.layers[self.layer], self.attribute)
        tensor: torch.Tensor = value if self.key is None else value[self.key]
        return tensor

    def write(self, cache: StaticCache, tensor: torch.Tensor) -> None:
        """Put `tensor` into this slot, without a copy."""
        if self.key is None:
            setattr(cache.layers[self.layer], self.attribute, tensor)
        else:
            getattr(cache.layers[self.layer], self.attribute)[self.key] = tensor

    def is_recurrent(self, cache: StaticCache) -> bool:
        """Whether the tensor is convolution or recurrent state, which must be cleared before a new sequence.

        Keys and values need no clearing: the causal mask hides every position after the current one.
        """
        return is_recurrent_state(cache.layers[self.layer], self.attribute)


def allocate_cache(model: PreTrainedModel, settings: CacheSettings) -> StaticCache:
    """A zeroed `StaticCache` for `model` with every layer allocated.

    Each layer allocates itself from the shapes of its first update. Configs do not have them for every architecture
    (latent attention, multi-query attention, convolution state).

    Args:
        model: The model, ready to trace.
        settings: The cache's sizes.
    """
    cache = StaticCache(config=model.config, max_cache_len=settings.max_cache_len)
    # Sliding layers choose between rolling and growing by a Python integer, which tracing would freeze. The attention
    # mask still applies the window.
    cache.layers = [full_length(layer, settings.max_cache_len) for layer in cache.layers]
    token = torch.zeros((settings.batch_size, 1), dtype=torch.long, device=model.device)
    model(input_ids=token, use_cache=True, **{cache_argument(model): cache})
    cache.reset()
    return cache


def state_slots(cache: StaticCache) -> tuple[CacheSlot, ...]:
    """Every slot of an allocated cache that keeps state from call to call.

    The cumulative lengths are not among them: `set_position` sets them from the cache position of each call.
    """
    return tuple(slot for index, layer in enumerate(cache.layers) for slot in _layer_slots(index, layer))


def initial_state(model: nn.Module, slot: CacheSlot, state: torch.Tensor) -> torch.Tensor:
    """The convolution or recurrent state in `slot` before a sequence, of the shape and dtype of `state`: zeros.

    But for ZAYA, whose recurrent state is the projection of the token before. Before the first one, it projects zeros
    (modeling_zaya.py:248), which gives the bias, if there is one.
    """
    if slot.attribute == "recurrent_states":
        for module in model.modules():
            projection = getattr(module, "v_proj_delayed", None)
            if projection is not None and projection.bias is not None and module.layer_idx == slot.layer:
                bias: torch.Tensor = projection.bias
                return bias.expand_as(state)
    return torch.zeros_like(state)


def set_position(cache: StaticCache, start: torch.Tensor) -> None:
    """Make the next update write from position `start` (int64, shape []) on, in every layer that counts positions."""
    for layer in cache.layers:
        for attribute in ("cumulative_length", "indexer_cumulative_length"):
            if hasattr(layer, attribute):
                # A copy for each: layers advance their lengths in place.
                setattr(layer, attribute, start.clone())
    # Inkling asks for its queries' offset before the update, and uses it when the layer's own length has moved on.
    offset: Any = cache
    offset.get_query_offset = lambda *_, **__: start


def report_in_progress(cache: StaticCache) -> None:
    """Make the cache report that it holds one token."""
    counter: Any = cache
    counter.get_seq_length = lambda *_, **__: 1


def set_integer_length(cache: StaticCache, start: torch.Tensor, max_cache_len: int) -> None:
    """Make the cache report `start` (int64, shape []) as its length, an integer; while tracing, an unbacked symbol."""
    length: Any = start.item()
    torch._check(length >= 0)
    torch._check(length < max_cache_len)
    counters: tuple[Any, ...] = (cache, *cache.layers)
    for counter in counters:
        counter.get_seq_length = lambda *_, **__: length


def _layer_slots(index: int, layer: object) -> Iterator[CacheSlot]:
    for attribute, value in vars(layer).items():
        if attribute.endswith("cumulative_length"):
            continue
        if isinstance(value, torch.Tensor):
            yield CacheSlot(index, attribute)
        elif isinstance(value, dict):
            for key, tensor in value.items():
                if isinstance(tensor, torch.Tensor):
                    yield CacheSlot(index, attribute, key)
