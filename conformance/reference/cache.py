"""A Transformers `StaticCache` seen as a flat list of named tensors that a module can own as buffers.

The wrapper does not know model architectures. It lets the cache allocate itself by running one token, then asks every
layer which tensors it holds: keys and values of any shape, indexer keys, convolution and recurrent states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, StaticCache

from conformance.reference.settings import CacheSettings
from conformance.reference.transformers_api import cache_argument, full_length, mark_mid_sequence, sums_up


@dataclass(frozen=True, slots=True)
class CacheSlot:
    """Where one state tensor lives inside a cache: `layers[layer].attribute`, or `...attribute[key]` for a dict."""

    layer: int
    attribute: str
    key: int | None = None

    @property
    def buffer_name(self) -> str:
        """A name that is valid for a buffer and unique in the cache, such as ``cache_0_keys``."""
        suffix = "" if self.key is None else f"_{self.key}"
        return f"cache_{self.layer}_{self.attribute}{suffix}"

    def read(self, cache: StaticCache) -> torch.Tensor:
        """The tensor in this slot."""
        held = getattr(cache.layers[self.layer], self.attribute)
        tensor: torch.Tensor = held if self.key is None else held[self.key]
        return tensor

    def write(self, cache: StaticCache, tensor: torch.Tensor) -> None:
        """Make the cache hold `tensor` here; the tensor itself is not copied."""
        if self.key is None:
            setattr(cache.layers[self.layer], self.attribute, tensor)
        else:
            getattr(cache.layers[self.layer], self.attribute)[self.key] = tensor

    def is_recurrent(self, cache: StaticCache) -> bool:
        """Whether what is here sums up the past, so that it must be cleared before a new sequence.

        Keys and values need no clearing: the causal mask hides every position after the current one.
        """
        return sums_up(cache.layers[self.layer], self.attribute)


def allocated_cache(model: PreTrainedModel, settings: CacheSettings) -> StaticCache:
    """A zeroed `StaticCache` for `model` with every layer allocated.

    Each layer allocates itself from the shapes that the model hands it, since no config says them for every
    architecture (latent attention, multi-query attention, convolution state).
    """
    cache = StaticCache(config=model.config, max_cache_len=settings.max_cache_len)
    # Sliding layers choose between rolling and growing by a Python integer, which a trace would freeze. The attention
    # mask still applies the window.
    cache.layers = [full_length(layer, settings.max_cache_len) for layer in cache.layers]
    token = torch.zeros((settings.batch_size, 1), dtype=torch.long, device=model.device)
    model(input_ids=token, use_cache=True, **{cache_argument(model): cache})
    cache.reset()
    return cache


def in_mid_sequence(cache: StaticCache) -> None:
    """Make an empty cache look as if tokens had been decoded.

    A Python flag picks the code path while tracing. Unset, it would trace the first call only, which ignores the state
    on every later call; with a zero state the later path is right from position 0 on.
    """
    mark_mid_sequence(cache.layers)


def state_slots(cache: StaticCache) -> tuple[CacheSlot, ...]:
    """Every slot of an allocated cache that carries state from call to call.

    The cumulative lengths are left out: they follow from the cache position of each call (see `set_position`).
    """
    return tuple(slot for index, layer in enumerate(cache.layers) for slot in _layer_slots(index, layer))


def set_position(cache: StaticCache, start: torch.Tensor) -> None:
    """Make the next update write from position `start` (int64, shape []) on, in every layer that counts positions."""
    for layer in cache.layers:
        for attribute in ("cumulative_length", "indexer_cumulative_length"):
            if hasattr(layer, attribute):
                # A copy for each: layers advance their lengths in place.
                setattr(layer, attribute, start.clone())


def set_integer_length(cache: StaticCache, start: torch.Tensor, max_cache_len: int) -> None:
    """Make the cache report `start` (int64, shape []) as an integer: while tracing, one whose value stays open."""
    length: Any = start.item()
    torch._check(length >= 0)
    torch._check(length < max_cache_len)
    counting: tuple[Any, ...] = (cache, *cache.layers)
    for part in counting:
        part.get_seq_length = lambda *_, **__: length


def _layer_slots(index: int, layer: object) -> Iterator[CacheSlot]:
    for attribute, held in vars(layer).items():
        if attribute.endswith("cumulative_length"):
            continue
        if isinstance(held, torch.Tensor):
            yield CacheSlot(index, attribute)
        elif isinstance(held, dict):
            for key, value in held.items():
                if isinstance(value, torch.Tensor):
                    yield CacheSlot(index, attribute, key)
